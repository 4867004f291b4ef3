/** How much the adapters of the stack change the ground, each by itself and together. */
import { ipc, IpcError } from '$lib/ipc/client';
import type { AdapterStrength, StackStrength } from '$lib/ipc/types';
import type { Products } from '$lib/strength';

interface Known extends StackStrength {
	/** Ids of cards, in the order of the products. */
	asked: readonly number[];
}

export class Strengths {
	#known = $state.raw<Known | null>(null);
	#failed = $state(false);
	#ground: number | null = null;
	#asked: readonly number[] = [];
	#question = 0;

	/** The last question could not be answered. */
	get failed() {
		return this.#failed;
	}

	/** Of these adapters, in this order, by the ids of their cards; `null`: not known yet. */
	among(adapters: readonly number[]): Products | null {
		const known = this.#known;
		if (!known) return null;
		const at = adapters.map((adapter) => known.asked.indexOf(adapter));
		if (at.includes(-1)) return null;
		return at.map((i) => at.map((j) => known.products[i]?.[j] ?? []));
	}

	/** What was measured of an adapter; `null`: not known yet. */
	of(adapter: number | undefined): AdapterStrength | null {
		return this.#known?.adapters.find((one) => one.adapter === adapter) ?? null;
	}

	/** What in an adapter cannot be used: a whole sentence. */
	problemOf(adapter: number): string | null {
		return this.of(adapter)?.problem ?? null;
	}

	/** Asks when an adapter is new; a new ground or a changed library begins anew. */
	async ask(ground: number | undefined, adapters: readonly number[], anew = false) {
		if (ground === undefined) return;
		const missing = adapters.some((adapter) => !this.#asked.includes(adapter));
		if (ground === this.#ground && !anew && !missing) return;
		if (ground !== this.#ground) this.#known = null;
		this.#ground = ground;
		this.#asked = [...new Set(adapters)];
		this.#failed = false;
		const mine = ++this.#question;
		if (this.#asked.length === 0) return;
		const asked = this.#asked;
		try {
			const answer = await ipc.strengths(ground, [...asked]);
			if (mine === this.#question) this.#known = { ...answer, asked };
		} catch (error) {
			// A later question ended this one: its answer comes instead.
			const cancelled = error instanceof IpcError && error.failure.code === 'cancelled';
			if (mine !== this.#question || cancelled) return;
			this.#failed = true;
			throw error;
		}
	}
}
