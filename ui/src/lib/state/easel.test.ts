import { mockIPC } from '@tauri-apps/api/mocks';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Event, GalleryImage, Job, JobProgress, JobState } from '$lib/ipc/types';
import { Easel } from './easel.svelte';
import { Live } from './live.svelte';
import { Queue } from './queue.svelte';

let queue: Queue;
let live: Live;
let easel: Easel;

function send(event: Event) {
	queue.handle(event);
	live.handle(event);
	easel.handle(event);
}

const job = (id: number, state: JobState, image: number | null = null) =>
	send({ event: 'job', data: { id, state, image, sheet: null } as Job });
const progress = (id: number) => send({ event: 'progress', data: { job: id } as JobProgress });
const painting = (state: 'rendering' | 'shown' | 'waiting') =>
	send({ event: 'live', data: { ...live.report, state, revision: 1 } });

/** As Rust tells it: the picture, then the job. */
function done(id: number) {
	send({ event: 'image_saved', data: { id: id + 100 } as GalleryImage });
	job(id, 'done', id + 100);
}

beforeEach(() => {
	mockIPC(() => undefined);
	queue = new Queue();
	live = new Live(
		() => ({}) as never,
		(error) => {
			throw error;
		}
	);
	easel = new Easel(queue, live);
});

describe('the easel', () => {
	it('follows one job after the other', () => {
		job(1, 'running');
		progress(1);
		expect(easel.shown).toEqual({ kind: 'job', job: 1 });
		done(1);
		expect(easel.image?.id).toBe(101);
		expect(easel.shown.kind).toBe('picture');
		job(2, 'running');
		expect(easel.shown).toEqual({ kind: 'job', job: 2 });
		job(2, 'cancelled');
		expect(easel.shown.kind).toBe('picture');
		job(3, 'running');
		job(3, 'failed');
		expect(easel.shown).toEqual({ kind: 'failed', job: 3 });
	});

	it('stays with a job while others run beside it', () => {
		job(1, 'running');
		job(2, 'running');
		for (const id of [1, 2, 1, 2]) progress(id);
		expect(easel.shown).toEqual({ kind: 'job', job: 1 });
		expect(easel.running?.id).toBe(1);
		// What the others come to leaves it where it is.
		done(2);
		job(3, 'running');
		job(3, 'failed');
		expect(easel.shown).toEqual({ kind: 'job', job: 1 });
		// Then it is the turn of what begins, not of what is half made.
		job(4, 'running');
		done(1);
		expect(easel.image?.id).toBe(101);
		job(5, 'running');
		progress(4);
		expect(easel.shown).toEqual({ kind: 'job', job: 5 });
		done(5);
		progress(4);
		expect(easel.running?.id).toBe(4);
		done(4);
		expect([easel.image?.id, easel.running]).toEqual([104, undefined]);
	});

	it('stays where the person looks, and still tells of a job that runs', () => {
		easel.show({ id: 7 } as GalleryImage);
		job(1, 'running');
		job(2, 'running');
		progress(2);
		expect([easel.image?.id, easel.shown.kind, easel.running?.id]).toEqual([7, 'picture', 1]);
		done(1);
		expect(easel.image?.id).toBe(7);
	});

	it('keeps a frame of Live while another device makes a job', () => {
		live.toggle(true);
		painting('shown');
		job(1, 'running');
		expect(easel.shown.kind).toBe('job');
		painting('rendering');
		painting('shown');
		progress(1);
		expect(easel.shown.kind).toBe('live');
		painting('rendering');
		done(1);
		expect(easel.shown.kind).toBe('live');
		// A lone device lets Live wait.
		job(2, 'running');
		painting('waiting');
		progress(2);
		expect(easel.shown).toEqual({ kind: 'job', job: 2 });
	});
});
