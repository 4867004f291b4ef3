/**
 * The gallery: which pictures are asked for, their ids in order, and what is selected. A query
 * brings all ids at once; what is known of each is fetched for those in sight. Nothing is asked
 * before the view is opened, and nothing while it is closed.
 */
import { ipc, IpcError } from '$lib/ipc/client';
import type { Event, GalleryCounts, GalleryImage, GalleryQuery } from '$lib/ipc/types';
import { Details } from './details.svelte';
import { Selection } from './selection.svelte';

/** What the list at the left chooses; the words of the search come on top. */
export type Filter = Omit<GalleryQuery, 'search' | 'oldest_first'>;

export const ALL: Filter = { favourites: false, since: null, ground: null, adapter: null };

/** How the wall looks from one start to the next. */
export interface SavedGallery {
	size: number;
	oldest_first: boolean;
}

/** The smallest and the largest side of a thumbnail. */
export const SIZES = { least: 90, most: 360 };

/** After the last key of a search; after the first of several events. */
const TYPING = 150;
const TOGETHER = 120;
/** What flies past while scrolling is not asked for. */
const SETTLED = 60;

export class Gallery {
	#filter = $state.raw<Filter>(ALL);
	#search = $state('');
	#oldestFirst = $state(false);
	#size = $state(150);
	#ids = $state.raw(new Uint32Array());
	#topic = $state(0);
	#counts = $state.raw<GalleryCounts | null>(null);
	#today = $state(0);
	#loaded = $state(false);
	#error = $state.raw<unknown>(null);
	#full = $state(false);

	#opened = false;
	#stale = true;
	/** What does not depend on the question is asked for again only after a change. */
	#recount = true;
	#asked = 0;
	#answered = '';
	#range: [number, number] = [0, 0];
	#timers: Record<string, ReturnType<typeof setTimeout>> = {};

	readonly details = new Details();
	readonly selection = new Selection(() => this.#ids);

	/** Where the view was scrolled to when it was left. */
	scroll = 0;

	/** The studio saves the session after each change of how the wall looks. */
	onchange: (() => void) | null = null;

	get filter() {
		return this.#filter;
	}

	get search() {
		return this.#search;
	}

	get oldestFirst() {
		return this.#oldestFirst;
	}

	/** Smallest side of a thumbnail, in pixels. */
	get size() {
		return this.#size;
	}

	get ids(): Uint32Array {
		return this.#ids;
	}

	/** Changes when the ids answer another question: then one looks from the top. */
	get topic() {
		return this.#topic;
	}

	get counts() {
		return this.#counts;
	}

	get today() {
		return this.#today;
	}

	/** Whether an answer has come at all. */
	get loaded() {
		return this.#loaded;
	}

	/** Why there is no answer. */
	get error() {
		return this.#error;
	}

	/** Whether the active picture fills the window. */
	get full() {
		return this.#full;
	}

	/** Whether anything is left out. */
	get filtered() {
		return this.#search.trim() !== '' || !same(this.#filter, ALL);
	}

	/** The picture that the panel shows and the keys act on, as far as it is known. */
	get image(): GalleryImage | undefined {
		return this.details.of(this.selection.count > 0 ? this.selection.active : null);
	}

	// ---- the view comes and goes

	open() {
		this.#opened = true;
		if (this.#stale) void this.#ask();
	}

	close() {
		this.#opened = false;
		this.#full = false;
	}

	handle(event: Event) {
		switch (event.event) {
			case 'image_saved':
				this.details.put([event.data]);
				this.refresh();
				break;
			case 'gallery':
			case 'snapshot':
				this.details.age();
				this.refresh();
				break;
		}
	}

	/** Asks again, once for several reasons at a time. */
	refresh() {
		this.#stale = true;
		this.#recount = true;
		if (this.#opened) this.#later('refresh', TOGETHER, () => this.#ask(), true);
	}

	// ---- the question

	setSearch(search: string) {
		this.#search = search;
		this.#later('search', TYPING, () => this.#ask());
	}

	/** Several parts of a filter hold together: favourites of one adapter. */
	setFilter(patch: Partial<Filter>) {
		this.#filter = { ...this.#filter, ...patch };
		void this.#ask();
	}

	/** All pictures, whatever was searched for. */
	reset() {
		this.#search = '';
		this.setFilter(ALL);
	}

	setOldestFirst(oldestFirst: boolean) {
		this.#oldestFirst = oldestFirst;
		this.onchange?.();
		void this.#ask();
	}

	setSize(size: number) {
		this.#size = size;
		this.onchange?.();
	}

	save(): SavedGallery {
		return { size: this.#size, oldest_first: this.#oldestFirst };
	}

	load(saved: Partial<SavedGallery> | undefined) {
		const size = Number(saved?.size ?? this.#size);
		this.#size = Math.min(Math.max(size || 0, SIZES.least), SIZES.most);
		this.#oldestFirst = saved?.oldest_first === true;
	}

	// ---- what is in sight

	/** Places from `first` to before `end` are in sight. */
	see(first: number, end: number) {
		this.#range = [first, end];
		this.#later('see', SETTLED, () => this.#want());
	}

	pick(at: number, held: { toggle?: boolean; extend?: boolean } = {}) {
		this.selection.pick(at, held);
		void this.#want();
	}

	showFull(full: boolean) {
		this.#full = full && this.selection.active !== null;
	}

	/** The selected pictures become favourites; if the active one is, none of them is any more. */
	async toggleFavourite() {
		const ids = this.selection.ordered;
		if (ids.length === 0) return;
		const favourite = !this.details.of(this.selection.active)?.favourite;
		await ipc.setFavourite(ids, favourite);
		this.details.put(
			ids.flatMap((id) => {
				const image = this.details.of(id);
				return image ? { ...image, favourite } : [];
			})
		);
	}

	async #ask() {
		this.#stale = false;
		const mine = ++this.#asked;
		const query: GalleryQuery = {
			...this.#filter,
			search: this.#search.trim(),
			oldest_first: this.#oldestFirst
		};
		const question = JSON.stringify(query);
		try {
			const ids = await ipc.imageIds(query);
			if (mine !== this.#asked) return;
			const sameQuestion = question === this.#answered;
			this.#answered = question;
			this.#ids = ids;
			this.#error = null;
			this.#loaded = true;
			if (!sameQuestion) this.#topic += 1;
			this.selection.settle(sameQuestion);
			if (this.selection.active === null || ids.length === 0) this.#full = false;
			await this.#want();
			if (this.#recount) await this.#count();
		} catch (error) {
			if (mine !== this.#asked) return;
			this.#error = error;
			this.#loaded = true;
		}
	}

	async #count() {
		this.#recount = false;
		const since = new Date().setHours(0, 0, 0, 0);
		try {
			const [counts, today] = await Promise.all([
				ipc.galleryCounts(),
				ipc.imageIds({ ...ALL, search: '', oldest_first: false, since })
			]);
			this.#counts = counts;
			this.#today = today.length;
		} catch (error) {
			this.#recount = true;
			throw error;
		}
	}

	/** A picture that goes while it is asked for is no failure: the ids come anew. */
	async #want() {
		const { active } = this.selection;
		const ids = [...this.#ids.subarray(...this.#range)];
		try {
			await this.details.want(active === null ? ids : [...ids, active]);
		} catch (error) {
			if (!(error instanceof IpcError)) throw error;
			this.#error ??= error;
		}
	}

	/** `keep`: a timer that runs already is not put off. */
	#later(name: string, after: number, run: () => unknown, keep = false) {
		if (keep && this.#timers[name] !== undefined) return;
		clearTimeout(this.#timers[name]);
		this.#timers[name] = setTimeout(() => {
			delete this.#timers[name];
			run();
		}, after);
	}
}

const same = (a: Filter, b: Filter) =>
	a.favourites === b.favourites &&
	a.since === b.since &&
	a.ground === b.ground &&
	a.adapter === b.adapter;
