/** What each layer of the stack would do on the ground: how many modules match, or why it stays out. */
import { ipc } from '$lib/ipc/client';
import type { Fit } from '$lib/ipc/types';

export class Fits {
	#known = $state.raw<ReadonlyMap<number, Fit>>(new Map());
	#ground: number | null = null;
	#asked = new Set<number>();

	/** By the id of the adapter's card. */
	of(adapter: number | undefined): Fit | undefined {
		return adapter === undefined ? undefined : this.#known.get(adapter);
	}

	/** Asks for those that are not known yet; a new ground or a changed library begins anew. */
	async ask(ground: number | undefined, adapters: number[], anew = false) {
		if (ground === undefined) return;
		if (ground !== this.#ground || anew) {
			this.#ground = ground;
			this.#asked.clear();
		}
		const missing = adapters.filter((adapter) => !this.#asked.has(adapter));
		if (missing.length === 0) return;
		for (const adapter of missing) this.#asked.add(adapter);
		const fits = await ipc.fits(ground, missing);
		if (ground !== this.#ground) return;
		const known = new Map([...this.#known].filter(([adapter]) => this.#asked.has(adapter)));
		for (const fit of fits) known.set(fit.adapter, fit);
		this.#known = known;
	}
}
