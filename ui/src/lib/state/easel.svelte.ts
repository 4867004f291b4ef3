/** What stands on the easel: a picture, one that is being made, a live frame, or what went wrong. */
import { ipc, pixels } from '$lib/ipc/client';
import type { Event, Failure, GalleryImage, Job } from '$lib/ipc/types';
import type { Live } from './live.svelte';
import type { Queue } from './queue.svelte';

type Shown =
	| { kind: 'nothing' }
	| { kind: 'picture'; image: GalleryImage }
	| { kind: 'job'; job: number }
	| { kind: 'live' }
	| { kind: 'failed'; job: number };

/** The same seed with and without one layer, side by side. */
export interface Split {
	base: GalleryImage;
	/** The layer that is left out. */
	without: string;
	job: number | null;
	image: GalleryImage | null;
	failure: Failure | null;
}

/** How large the picture is shown: `null` fits it into the easel; else screen pixels for one of its own. */
export type Zoom = number | null;

export class Easel {
	#shown = $state.raw<Shown>({ kind: 'nothing' });
	#image = $state.raw<GalleryImage | null>(null);
	#before = $state.raw<GalleryImage | null>(null);
	#split = $state.raw<Split | null>(null);
	#zoom = $state<Zoom>(null);
	#comparing = $state(false);

	#queue: Queue;
	#live: Live;
	/** The picture that was saved last; the event of its job follows. */
	#saved: GalleryImage | null = null;
	/** Whether new pictures come onto the easel by themselves. */
	#follow = true;

	onchange: (() => void) | null = null;
	/** The person wants a picture here: what lay over the easel goes. */
	onpick: (() => void) | null = null;

	constructor(queue: Queue, live: Live) {
		this.#queue = queue;
		this.#live = live;
	}

	get shown(): Shown {
		// Without Live its last frame is gone: the picture is there again.
		return this.#shown.kind === 'live' && !this.#live.on ? this.#resting() : this.#shown;
	}

	/** The finished picture that tools act on: the one shown, or the last one behind a preview. */
	get image(): GalleryImage | null {
		return this.#image;
	}

	/** The picture that was shown before this one. */
	get before(): GalleryImage | null {
		return this.#shown.kind === 'picture' ? this.#before : this.#image;
	}

	get split(): Split | null {
		return this.#split;
	}

	get zoom(): Zoom {
		return this.#zoom;
	}

	/** The compare key is held: the picture before is shown. */
	get comparing() {
		return this.#comparing && this.before !== null;
	}

	/** The job that forms here, or else the oldest of those that run. */
	get running(): Job | undefined {
		return this.#forming ?? this.#queue.running[0];
	}

	/** Address of what is to be seen; `null`: nothing. */
	get src(): string | null {
		if (this.comparing && this.before) return pixels('picture', this.before.id);
		const shown = this.#shown;
		if (shown.kind === 'live' && this.#live.report.revision !== null) {
			return pixels('live', 0, this.#live.report.revision);
		}
		if (shown.kind === 'job') {
			const preview = this.#queue.preview(shown.job);
			if (preview !== null) return pixels('preview', shown.job, preview);
		}
		if (shown.kind === 'failed') return null;
		return this.#image && pixels('picture', this.#image.id);
	}

	/** What went wrong with the job that was to stand here. */
	get failure(): Failure | null {
		return this.#shown.kind === 'failed' ? (this.#queue.job(this.#shown.job)?.error ?? null) : null;
	}

	/** The person picks a picture: new ones no longer push it aside. */
	show(image: GalleryImage) {
		this.onpick?.();
		this.#follow = false;
		this.#split = null;
		this.#put(image);
	}

	/** The person generates: what comes is shown as it forms. */
	follow() {
		this.onpick?.();
		this.#follow = true;
		this.#split = null;
	}

	/** Screen pixels for one of the picture when it fits: the easel tells, for zooming from there. */
	fitted = 1;

	zoomBy(factor: number) {
		const from = this.#zoom ?? this.fitted;
		this.setZoom(Math.min(Math.max(from * factor, 0.05), 32));
	}

	/** A double click: close up, and back. */
	toggleZoom() {
		this.setZoom(this.#zoom === null ? Math.max(1, this.fitted * 2) : null);
	}

	setZoom(zoom: Zoom) {
		this.#zoom = zoom;
		this.onchange?.();
	}

	compare(on: boolean) {
		this.#comparing = on;
	}

	/** Makes the same picture without one of its layers, to stand beside it. */
	async splitWithout(image: GalleryImage, index: number) {
		const adapter = image.params?.adapters[index];
		if (!image.params || !adapter) return;
		const without = adapter.name;
		const adapters = image.params.adapters.filter((_, at) => at !== index);
		this.show(image);
		this.#split = { base: image, without, job: null, image: null, failure: null };
		const [job] = await ipc.enqueue({ ...image.params, adapters }, 1);
		if (this.#split?.base === image && job !== undefined) {
			this.#split = { ...this.#split, job };
			// It may have ended before its number was here.
			const known = this.#queue.job(job);
			if (known) await this.#settle(known.id);
		}
	}

	endSplit() {
		this.#split = null;
	}

	/** A picture that is gone leaves the easel; its neighbour takes the place. */
	forget(ids: readonly number[], next: GalleryImage | null) {
		if (this.#before && ids.includes(this.#before.id)) this.#before = null;
		if (this.#split && ids.includes(this.#split.base.id)) this.#split = null;
		if (!this.#image || !ids.includes(this.#image.id)) return;
		this.#image = next;
		if (this.#shown.kind === 'picture') {
			this.#shown = next ? { kind: 'picture', image: next } : { kind: 'nothing' };
		}
		this.onchange?.();
	}

	/** At the start: the newest picture, or the one that stood here. */
	begin(image: GalleryImage | undefined, zoom: Zoom) {
		this.#zoom = zoom;
		if (image && this.#shown.kind === 'nothing') this.#put(image);
	}

	handle(event: Event) {
		switch (event.event) {
			case 'progress':
				// On another device, a job may run beside Live.
				if (this.#follow && (!this.#painted || this.#live.report.state === 'waiting')) {
					this.#form(event.data.job);
				}
				break;
			case 'image_saved':
				this.#saved = event.data;
				break;
			case 'job':
				this.#hear(event.data);
				break;
			case 'job_removed':
				if (this.#isOn(event.data)) this.#rest();
				break;
			case 'live':
				if (this.#live.on && event.data.state === 'shown') this.#shown = { kind: 'live' };
				break;
		}
	}

	/** The job that forms here and still runs. */
	get #forming(): Job | undefined {
		const shown = this.#shown;
		if (shown.kind !== 'job') return;
		return this.#queue.running.find((job) => job.id === shown.job);
	}

	/** Shows a job that is being made. Where several are, one stays until it ends. */
	#form(job: number) {
		if (this.#live.report.state === 'rendering') return;
		this.#shown = { kind: 'job', job: this.#forming?.id ?? job };
	}

	/** A frame of Live stands here. */
	get #painted() {
		return this.shown.kind === 'live';
	}

	/** What ended comes onto the easel, unless something forms here. */
	get #free() {
		const paints = this.#painted && this.#live.report.state === 'rendering';
		return this.#follow && !this.#forming && !paints;
	}

	#hear(job: Job) {
		if (job.id === this.#split?.job) void this.#settle(job.id);
		switch (job.state) {
			// What comes on the device where one has just ended, not what is half made on another.
			case 'running':
				if (this.#follow) this.#form(job.id);
				break;
			case 'done':
				if (this.#free && this.#saved?.id === job.image) this.#put(this.#saved);
				break;
			case 'failed':
				if (this.#free) this.#shown = { kind: 'failed', job: job.id };
				break;
			case 'cancelled':
				if (this.#isOn(job.id)) this.#rest();
				break;
		}
	}

	/** Goes back from a failure or a live frame to the last picture. */
	#rest() {
		this.#shown = this.#resting();
	}

	#resting(): Shown {
		return this.#image ? { kind: 'picture', image: this.#image } : { kind: 'nothing' };
	}

	#isOn(job: number) {
		return (this.#shown.kind === 'job' || this.#shown.kind === 'failed') && this.#shown.job === job;
	}

	#put(image: GalleryImage) {
		if (this.#image && this.#image.id !== image.id) this.#before = this.#image;
		this.#image = image;
		this.#shown = { kind: 'picture', image };
		this.onchange?.();
	}

	async #settle(id: number) {
		const job = this.#queue.job(id);
		if (!job || !this.#split) return;
		if (job.state === 'failed') this.#split = { ...this.#split, failure: job.error };
		if (job.state === 'cancelled') this.#split = null;
		if (job.state !== 'done' || job.image === null) return;
		const [image] = await ipc.images([job.image]);
		if (image && this.#split?.job === id) this.#split = { ...this.#split, image };
	}
}
