/** The library: all model files that were found, and the copies and conversions under way. */
import { ipc } from '$lib/ipc/client';
import type {
	AdapterParams,
	ConvertProgress,
	ConvertWish,
	CopyProgress,
	Event,
	FileRef,
	FolderOffer,
	Library as Snapshot,
	LibraryFolder,
	ModelCard,
	ModelKind,
	ModelNote
} from '$lib/ipc/types';
import { Shelf } from './shelf.svelte';

const NOTHING_SAID: ModelNote = {
	title: null,
	trigger_words: null,
	default_weight: null,
	pigment: null,
	prediction: null,
	acceleration: null
};

export interface ToConvert {
	card: ModelCard;
	/** Written into it; none: it stays what it is. */
	adapters: AdapterParams[];
}

export class Library {
	#found = $state.raw<Omit<Snapshot, 'revision'>>({
		cards: [],
		folders: [],
		offers: [],
		scanning: false
	});
	#byId = $derived(new Map(this.#found.cards.map((card) => [card.id, card])));
	#byHash = $derived(grouped(this.#found.cards, (card) => card.sha256));
	#byName = $derived(grouped(this.#found.cards, (card) => card.name));
	#copying = $state.raw<ReadonlyMap<number, CopyProgress>>(new Map());
	#toConvert = $state.raw<ToConvert | null>(null);
	#converting = $state.raw<ReadonlyMap<number, ConvertProgress>>(new Map());
	#asked = 0;
	#answered = 0;

	readonly shelf = new Shelf(() => this.cards);

	/** After each replacement of the cards. */
	onchange: (() => void) | null = null;

	/** After a conversion; the id of the new card. */
	onconverted: ((made: number) => void) | null = null;

	get cards(): readonly ModelCard[] {
		return this.#found.cards;
	}

	get folders(): readonly LibraryFolder[] {
		return this.#found.folders;
	}

	/** Folders of other programs that could be added. */
	get offers(): readonly FolderOffer[] {
		return this.#found.offers;
	}

	/** Files are still being looked at. */
	get scanning() {
		return this.#found.scanning;
	}

	/** By the id of the card. */
	get copying() {
		return this.#copying;
	}

	/** What the person is about to have written anew. */
	get toConvert() {
		return this.#toConvert;
	}

	/** Asks how a model is to be written anew; with a stack, that is written into it. */
	askToConvert(card: ModelCard, adapters: AdapterParams[] = []) {
		this.#toConvert = { card, adapters };
	}

	endAsking() {
		this.#toConvert = null;
	}

	/** By the id of the card; a conversion that ended well is not in it. */
	get converting() {
		return this.#converting;
	}

	byId(id: number | null | undefined): ModelCard | undefined {
		return id == null ? undefined : this.#byId.get(id);
	}

	/**
	 * By hash where both know it, else by name; of several with the same contents the one of that
	 * name, usable ones first.
	 */
	find(ref: FileRef, kind: ModelKind): ModelCard | undefined {
		const alike = ref.sha256 ? (this.#byHash.get(ref.sha256) ?? []) : [];
		const named = (this.#byName.get(ref.name) ?? []).filter(
			(card) => !ref.sha256 || !card.sha256 || ref.sha256 === card.sha256
		);
		const exact = named.filter((card) => alike.includes(card));
		const found = [...exact, ...alike, ...named].filter((card) => card.kind === kind);
		return found.find((card) => card.usable) ?? found[0];
	}

	/** The first card with the same contents. */
	original(card: ModelCard): ModelCard | undefined {
		return this.byId(card.duplicate_of);
	}

	/** Whoever waits for it sees what there was when it was asked for, or something newer. */
	async refresh() {
		const mine = ++this.#asked;
		const { cards, folders, offers, scanning } = await ipc.library();
		if (mine < this.#answered) return;
		this.#answered = mine;
		this.#found = { cards, folders, offers, scanning };
		this.onchange?.();
	}

	handle(event: Event) {
		if (event.event === 'library') void this.refresh();
		if (event.event === 'copying') {
			const { card, done, total, error } = event.data;
			const copying = new Map(this.#copying);
			// Whoever stops a copy knows that it ended.
			if ((done >= total && !error) || error?.code === 'cancelled') copying.delete(card);
			else copying.set(card, event.data);
			this.#copying = copying;
		}
		if (event.event === 'converting') {
			const { card, made, error } = event.data;
			const converting = new Map(this.#converting);
			if (made !== null || error?.code === 'cancelled') converting.delete(card);
			else converting.set(card, event.data);
			this.#converting = converting;
			if (made !== null) this.onconverted?.(made);
		}
	}

	/** What the person says of a file wins over what the file says; `null` takes it back. */
	async note(card: ModelCard, patch: Partial<ModelNote>) {
		await ipc.setModelNote(card.id, { ...NOTHING_SAID, ...card.note, ...patch });
		await this.refresh();
	}

	async copyIn(card: number) {
		this.#forgetCopy(card);
		await ipc.copyIntoLibrary(card);
	}

	async cancelCopy(card: number) {
		await ipc.cancelCopy(card);
		this.#forgetCopy(card);
	}

	async convert(card: number, wish: ConvertWish) {
		this.#forgetConversion(card);
		await ipc.convertModel(card, wish);
	}

	async cancelConversion(card: number) {
		await ipc.cancelConversion(card);
		this.#forgetConversion(card);
	}

	#forgetConversion(card: number) {
		if (!this.#converting.has(card)) return;
		const converting = new Map(this.#converting);
		converting.delete(card);
		this.#converting = converting;
	}

	#forgetCopy(card: number) {
		if (!this.#copying.has(card)) return;
		const copying = new Map(this.#copying);
		copying.delete(card);
		this.#copying = copying;
	}
}

function grouped(cards: readonly ModelCard[], key: (card: ModelCard) => string | null) {
	const groups = new Map<string, ModelCard[]>();
	for (const card of cards) {
		const name = key(card);
		if (name === null) continue;
		const group = groups.get(name);
		if (group) group.push(card);
		else groups.set(name, [card]);
	}
	return groups;
}
