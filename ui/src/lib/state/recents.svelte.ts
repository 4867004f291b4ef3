/** The recent pictures, newest first: what the film strip shows. */
import { ipc } from '$lib/ipc/client';
import type { Event, GalleryImage, GalleryQuery } from '$lib/ipc/types';

const COUNT = 100;

const NEWEST: GalleryQuery = {
	search: '',
	favourites: false,
	since: null,
	ground: null,
	adapter: null,
	oldest_first: false
};

export class Recents {
	#images = $state.raw<readonly GalleryImage[]>([]);
	#asked = 0;

	get images(): readonly GalleryImage[] {
		return this.#images;
	}

	byId(id: number): GalleryImage | undefined {
		return this.#images.find((image) => image.id === id);
	}

	/** The picture beside another one: `by` 1 is the older neighbour. */
	beside(id: number | null, by: number): GalleryImage | undefined {
		const at = this.#images.findIndex((image) => image.id === id);
		return this.#images[at < 0 ? 0 : Math.min(Math.max(at + by, 0), this.#images.length - 1)];
	}

	async refresh() {
		const asked = ++this.#asked;
		const ids = await ipc.imageIds(NEWEST);
		const images = await ipc.images([...ids.slice(0, COUNT)]);
		if (asked === this.#asked) this.#images = images;
	}

	handle(event: Event) {
		if (event.event === 'gallery') void this.refresh();
		if (event.event === 'image_saved') {
			const others = this.#images.filter((image) => image.id !== event.data.id);
			this.#images = [event.data, ...others].slice(0, COUNT);
			// An answer that is under way does not know this picture yet.
			this.#asked += 1;
		}
	}
}
