/** The jobs: those that run (one on each device), those that wait, those that ended without a picture. */
import { ipc } from '$lib/ipc/client';
import type { Event, Job, JobProgress, JobState } from '$lib/ipc/types';

const WITHOUT_PICTURE: readonly JobState[] = ['failed', 'cancelled', 'interrupted'];

export class Queue {
	#jobs = $state.raw<ReadonlyMap<number, Job>>(new Map());
	#order = $state.raw<readonly number[]>([]);
	#paused = $state(false);
	/** Of the running jobs, by their ids. */
	#progress = $state.raw<ReadonlyMap<number, JobProgress>>(new Map());

	#running = $derived([...this.#jobs.values()].filter((job) => job.state === 'running'));
	#waiting = $derived(
		this.#order.map((id) => this.#jobs.get(id)).filter((job) => job?.state === 'queued') as Job[]
	);
	#ended = $derived(
		[...this.#jobs.values()]
			.filter((job) => WITHOUT_PICTURE.includes(job.state))
			// A sheet shows by itself what was cancelled of it, and makes it again.
			.filter((job) => job.sheet === null || job.state !== 'cancelled')
			.sort((a, b) => b.id - a.id)
	);

	/** Oldest first. */
	get running(): readonly Job[] {
		return this.#running;
	}

	get waiting(): readonly Job[] {
		return this.#waiting;
	}

	/** Newest first. */
	get ended(): readonly Job[] {
		return this.#ended;
	}

	get paused() {
		return this.#paused;
	}

	/** Of a running job. */
	progress(id: number): JobProgress | null {
		return this.#progress.get(id) ?? null;
	}

	/** All that is still to be made. */
	get length() {
		return this.#waiting.length + this.#running.length;
	}

	job(id: number): Job | undefined {
		return this.#jobs.get(id);
	}

	/** Address of the newest preview of a job, by revision. */
	preview(id: number): number | null {
		return this.progress(id)?.preview ?? null;
	}

	setPaused(paused: boolean) {
		return ipc.setPaused(paused);
	}

	cancel(id: number) {
		return ipc.cancelJob(id);
	}

	requeue(id: number) {
		return ipc.requeueJob(id);
	}

	dismiss(id: number) {
		return ipc.dismissJob(id);
	}

	/** Oldest first, so that they come in the order in which they were asked for. */
	async requeueInterrupted() {
		const interrupted = this.#ended.filter((job) => job.state === 'interrupted').reverse();
		for (const job of interrupted) await ipc.requeueJob(job.id);
	}

	async dismissAll() {
		for (const job of this.#ended) await ipc.dismissJob(job.id);
	}

	/** Moves a waiting job before another, or to the end; shown at once, and confirmed by the `queue` event. */
	move(id: number, before: number | null) {
		const order = this.#waiting.map((job) => job.id).filter((other) => other !== id);
		order.splice(before === null ? order.length : order.indexOf(before), 0, id);
		this.#order = order;
		return ipc.moveJob(id, before);
	}

	/** Waiting jobs in rows: cells of one sheet that follow each other are one. */
	get rows(): readonly Job[][] {
		const rows: Job[][] = [];
		for (const job of this.#waiting) {
			const last = rows.at(-1);
			if (last && job.sheet !== null && last[0]?.sheet === job.sheet) last.push(job);
			else rows.push([job]);
		}
		return rows;
	}

	handle(event: Event) {
		switch (event.event) {
			case 'snapshot':
				this.#jobs = new Map(event.data.jobs.map((job) => [job.id, job]));
				this.#order = event.data.order;
				this.#paused = event.data.paused;
				this.#progress = new Map(event.data.progress.map((one) => [one.job, one]));
				break;
			case 'job':
				this.#jobs = new Map(this.#jobs).set(event.data.id, event.data);
				if (event.data.state !== 'running' && this.#progress.has(event.data.id)) {
					const progress = new Map(this.#progress);
					progress.delete(event.data.id);
					this.#progress = progress;
				}
				break;
			case 'job_removed': {
				const jobs = new Map(this.#jobs);
				jobs.delete(event.data);
				this.#jobs = jobs;
				break;
			}
			case 'queue':
				this.#order = event.data.order;
				this.#paused = event.data.paused;
				break;
			case 'progress':
				this.#progress = new Map(this.#progress).set(event.data.job, event.data);
				break;
		}
	}
}

/** What a job is doing, in a few words. */
export function phrase(progress: JobProgress | null): string {
	switch (progress?.phase) {
		case undefined:
		case 'load':
			return 'Loading the ground';
		case 'patch':
			return 'Mixing the stack';
		case 'encode':
			return 'Reading the words';
		case 'sample':
			return `Step ${progress.step} of ${progress.steps}`;
		case 'decode':
			return 'Developing the picture';
	}
}

/** "1 s left", "3 min left". */
export function timeLeft(seconds: number | null): string {
	if (seconds === null) return '';
	if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s left`;
	if (seconds < 5400) return `${Math.round(seconds / 60)} min left`;
	return `${(seconds / 3600).toFixed(1)} h left`;
}
