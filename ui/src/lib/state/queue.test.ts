import { describe, expect, it } from 'vitest';
import type { Event, Job, JobProgress } from '$lib/ipc/types';
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

	it('keeps the progress of each job that runs, until it ends', () => {
		const shown = queue([{ id: 1, state: 'running' }, { id: 2, state: 'running' }, { id: 3 }]);
		const tell = (job: number, step: number, preview: number | null) =>
			shown.handle({ event: 'progress', data: { job, step, preview } as JobProgress });
		tell(1, 4, 7);
		tell(2, 9, null);
		tell(1, 5, 8);
		expect(shown.running.map((job) => job.id)).toEqual([1, 2]);
		expect([shown.progress(1)?.step, shown.progress(2)?.step, shown.progress(3)]).toEqual([
			5,
			9,
			null
		]);
		expect([shown.preview(1), shown.preview(2)]).toEqual([8, null]);
		expect(shown.length).toBe(3);

		// Put back, or ended: it begins anew the next time.
		shown.handle({ event: 'job', data: { id: 1, state: 'queued', sheet: null } as Job });
		expect([shown.progress(1), shown.progress(2)?.step]).toEqual([null, 9]);
		expect(shown.running.map((job) => job.id)).toEqual([2]);
	});
});
