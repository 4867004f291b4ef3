/** Files over the window and in it: what they are while they hover, and what became of them. */
import { ipc } from '$lib/ipc/client';
import type { Dropped, DropItem } from '$lib/ipc/types';

interface Hover {
	paths: string[];
	/** `null`: the headers are still being read. */
	items: DropItem[] | null;
}

export class Drop {
	#hover = $state.raw<Hover | null>(null);
	#results = $state.raw<readonly Dropped[]>([]);
	#busy = $state(0);

	#ground: () => number | null;
	#received: (dropped: Dropped[]) => Promise<Dropped[]>;
	#fail: (error: unknown) => void;

	/**
	 * `received` puts on the stack what needs no question, and gives back what is to be shown: offers,
	 * and files that cannot be used.
	 */
	constructor(
		ground: () => number | null,
		received: (dropped: Dropped[]) => Promise<Dropped[]>,
		fail: (error: unknown) => void
	) {
		this.#ground = ground;
		this.#received = received;
		this.#fail = fail;
	}

	get hover(): Hover | null {
		return this.#hover;
	}

	/** Waiting for an answer of the person, or to be read. */
	get results(): readonly Dropped[] {
		return this.#results;
	}

	/** Files are being read or copied. */
	get busy() {
		return this.#busy > 0;
	}

	async enter(paths: string[]) {
		const hover: Hover = { paths, items: null };
		this.#hover = hover;
		try {
			const items = await ipc.describeDrop(paths, this.#ground());
			if (this.#hover === hover) this.#hover = { paths, items };
		} catch {
			// The drop itself says what is wrong; while they hover, the names are enough.
		}
	}

	leave() {
		this.#hover = null;
	}

	/** Does not wait for what `enter` finds: the hand may let go at once. */
	async drop(paths: string[]) {
		this.#hover = null;
		if (paths.length === 0) return;
		this.#busy += 1;
		try {
			const rest = await this.#received(await ipc.drop(paths));
			this.#results = [...this.#results, ...rest];
		} catch (error) {
			this.#fail(error);
		} finally {
			this.#busy -= 1;
		}
	}

	/** One answered or read; without it, all. */
	settle(one?: Dropped) {
		this.#results = one ? this.#results.filter((other) => other !== one) : [];
	}
}
