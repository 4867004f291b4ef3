import { describe, expect, it } from 'vitest';
import type { Event, Job } from '$lib/ipc/types';
import { Queue } from './queue.svelte';

function queue(jobs: Partial<Job>[]) {
	const queue = new Queue();
	for (const job of jobs) {
		queue.handle({ event: 'job', data: { state: 'queued', sheet: null, ...job } as Job } as Event);
	}
	const order = jobs.map((job) => job.id ?? 0);
	queue.handle({ event: 'queue', data: { order, paused: false } });
	return queue;
}

describe('the queue', () => {
	it('shows the cells of a sheet that follow each other as one row', () => {
		const rows = queue([
			{ id: 1 },
			{ id: 2 },
			{ id: 3, sheet: 7 },
			{ id: 4, sheet: 7 },
			{ id: 5, sheet: 8 },
			{ id: 6 },
			{ id: 9, sheet: 8 }
		]).rows;
		expect(rows.map((row) => row.map((job) => job.id))).toEqual([[1], [2], [3, 4], [5], [6], [9]]);
	});

	it('leaves what was cancelled of a sheet to the sheet', () => {
		const { ended } = queue([
			{ id: 1, state: 'cancelled' },
			{ id: 2, state: 'cancelled', sheet: 7 },
			{ id: 3, state: 'failed', sheet: 7 },
			{ id: 4, state: 'interrupted', sheet: 7 }
		]);
		expect(ended.map((job) => job.id)).toEqual([4, 3, 1]);
	});
});
