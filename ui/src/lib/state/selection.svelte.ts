/** Which of a list of ids are selected, by mouse and by keyboard as in a file manager. */

/** The keys that are held while picking. */
export interface Held {
	/** Ctrl: one more or one less. */
	toggle?: boolean;
	/** Shift: all from the last plain pick to here. */
	extend?: boolean;
}

export class Selection {
	#list: () => Uint32Array;
	#ids = $state.raw<ReadonlySet<number>>(new Set());
	#active = $state<number | null>(null);
	/** Where the active one stood last: its neighbour follows when it goes. */
	#at = $state(-1);
	#anchor: number | null = null;

	constructor(list: () => Uint32Array) {
		this.#list = list;
	}

	get ids(): ReadonlySet<number> {
		return this.#ids;
	}

	get count() {
		return this.#ids.size;
	}

	/** The one that the keys start from. */
	get active(): number | null {
		return this.#active;
	}

	/** Its place in the list; -1: there is none. */
	get at() {
		return this.#at;
	}

	has(id: number) {
		return this.#ids.has(id);
	}

	/** Selected ids in the order of the list. */
	get ordered(): number[] {
		if (this.#ids.size === 1) return [...this.#ids];
		return Array.from(this.#list().filter((id) => this.#ids.has(id)));
	}

	pick(at: number, { toggle = false, extend = false }: Held = {}) {
		const list = this.#list();
		const id = list[at];
		if (id === undefined) return;
		const from = extend && this.#anchor !== null ? list.indexOf(this.#anchor) : -1;
		if (from >= 0) {
			const range = list.subarray(Math.min(from, at), Math.max(from, at) + 1);
			this.#ids = new Set(toggle ? [...this.#ids, ...range] : range);
		} else if (toggle) {
			const next = new Set(this.#ids);
			if (!next.delete(id)) next.add(id);
			this.#ids = next;
			this.#anchor = id;
		} else {
			this.#ids = new Set([id]);
			this.#anchor = id;
		}
		this.#active = id;
		this.#at = at;
	}

	all() {
		const list = this.#list();
		this.#ids = new Set(list);
		if (this.#at < 0 && list.length > 0) {
			this.#at = 0;
			this.#active = this.#anchor = list[0] ?? null;
		}
	}

	clear() {
		this.#ids = new Set();
		this.#anchor = null;
	}

	/**
	 * After the list was replaced: what is no longer in it is no longer selected. `follow`: when
	 * nothing is left, the neighbour of the active one takes its place, as after deleting.
	 */
	settle(follow: boolean) {
		const list = this.#list();
		const had = this.#ids.size > 0;
		if (had) {
			const there = new Set(list);
			const kept = [...this.#ids].filter((id) => there.has(id));
			if (kept.length < this.#ids.size) this.#ids = new Set(kept);
		}
		const at = this.#active === null ? -1 : list.indexOf(this.#active);
		const next = at >= 0 ? at : Math.min(Math.max(this.#at, 0), list.length - 1);
		if (at < 0 && (!follow || this.#active === null || list.length === 0)) {
			this.#active = this.#anchor = null;
			this.#at = -1;
		} else if (follow && had && this.#ids.size === 0) {
			this.pick(next);
		} else {
			this.#at = next;
			this.#active = list[next] ?? null;
			if (at < 0) this.#anchor = this.#active;
		}
	}
}
