/** What is known of pictures: asked for in batches, only for those in sight, and the oldest forgotten. */
import { ipc } from '$lib/ipc/client';
import type { GalleryImage } from '$lib/ipc/types';

/** Many screens full, and little memory. */
const MOST = 2_000;

export class Details {
	/** In the order of last use: the first is the first to be forgotten. */
	#known = new Map<number, GalleryImage>();
	#old = new Set<number>();
	#asked = new Set<number>();
	#revision = $state(0);

	of(id: number | null | undefined): GalleryImage | undefined {
		// Read for what depends on it: the map itself is plain.
		void this.#revision;
		return id == null ? undefined : this.#known.get(id);
	}

	/** Asks for those that are not known, or not known well any more. */
	async want(ids: readonly number[]) {
		for (const id of ids) this.#touch(id);
		const missing = ids.filter(
			(id) => !this.#asked.has(id) && (!this.#known.has(id) || this.#old.has(id))
		);
		if (missing.length === 0) return;
		for (const id of missing) {
			this.#asked.add(id);
			this.#old.delete(id);
		}
		try {
			this.put(await ipc.images(missing));
		} finally {
			for (const id of missing) this.#asked.delete(id);
		}
	}

	put(images: readonly GalleryImage[]) {
		for (const image of images) {
			this.#known.delete(image.id);
			this.#known.set(image.id, image);
		}
		for (const id of this.#known.keys()) {
			if (this.#known.size <= MOST) break;
			this.#known.delete(id);
		}
		this.#revision += 1;
	}

	/** Something may have changed: what is known is still shown, and asked for again when it is wanted. */
	age() {
		this.#old = new Set(this.#known.keys());
	}

	#touch(id: number) {
		const image = this.#known.get(id);
		if (!image) return;
		this.#known.delete(id);
		this.#known.set(id, image);
	}
}
