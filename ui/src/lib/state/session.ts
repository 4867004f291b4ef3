/** The window's state from one start to the next: saved half a second after each change. */
import { ipc } from '$lib/ipc/client';
import type { Zoom } from './easel.svelte';
import type { SavedGallery } from './gallery.svelte';
import type { Document } from './generation.svelte';
import type { SavedSheet } from './sheets.svelte';
import type { SavedShelf } from './shelf.svelte';
import type { SavedView } from './view.svelte';

export interface SavedSession {
	version: 1;
	document: Document;
	view: SavedView;
	easel: { zoom: Zoom; shown: number | null };
	sheet?: SavedSheet | null;
	gallery?: Partial<SavedGallery>;
	shelf?: Partial<SavedShelf>;
}

const CALM = 500;

export class Session {
	#save: () => SavedSession;
	#fail: (error: unknown) => void;
	#timer: ReturnType<typeof setTimeout> | undefined;

	constructor(save: () => SavedSession, fail: (error: unknown) => void) {
		this.#save = save;
		this.#fail = fail;
		addEventListener('pagehide', () => this.#timer && this.#write());
	}

	touch() {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => this.#write(), CALM);
	}

	#write() {
		clearTimeout(this.#timer);
		this.#timer = undefined;
		ipc.saveSession(this.#save()).catch(this.#fail);
	}
}

/** What was saved, if it is of a kind that this version knows; `null`: begin anew. */
export function readSession(saved: unknown): SavedSession | null {
	const session = saved as Partial<SavedSession> | null;
	if (
		session?.version !== 1 ||
		!session.document?.numbers ||
		!Array.isArray(session.document.layers)
	) {
		return null;
	}
	return {
		version: 1,
		document: session.document,
		view: { tab: 'studio', more: false, ...session.view },
		easel: { zoom: null, shown: null, ...session.easel },
		sheet: session.sheet ?? null,
		gallery: session.gallery ?? {},
		shelf: session.shelf ?? {}
	};
}
