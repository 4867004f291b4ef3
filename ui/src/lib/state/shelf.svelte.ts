/** What of the library is in front: a kind, perhaps of one family or folder, searched and in order. */
import type { ModelCard, ModelKind } from '$lib/ipc/types';

export type Order = 'name' | 'used' | 'newest';

/** What is in front from one start to the next. */
export interface SavedShelf {
	kind: ModelKind;
	order: Order;
}

/** Index of a folder; `elsewhere`: files that are used where they lie. */
export type Place = number | 'elsewhere';

export class Shelf {
	#cards: () => readonly ModelCard[];
	#kind = $state<ModelKind>('adapter');
	#family = $state<string | null>(null);
	#place = $state<Place | null>(null);
	#search = $state('');
	#order = $state<Order>('name');
	#chosen = $state<number | null>(null);
	#topic = $state(0);

	#ofKind = $derived.by(() => this.#cards().filter((card) => card.kind === this.#kind));
	#shown = $derived.by(() => {
		const words = this.#search.toLowerCase().split(/\s+/).filter(Boolean);
		return this.#ofKind
			.filter((card) => this.#family === null || familyOf(card) === this.#family)
			.filter((card) => this.#place === null || placeOf(card) === this.#place)
			.filter((card) => words.every((word) => textOf(card).includes(word)))
			.sort(ORDERS[this.#order]);
	});

	/** Where the view was scrolled to when it was left. */
	scroll = 0;

	/** The studio saves the session after each change. */
	onchange: (() => void) | null = null;

	constructor(cards: () => readonly ModelCard[]) {
		this.#cards = cards;
	}

	get kind() {
		return this.#kind;
	}

	get family() {
		return this.#family;
	}

	get place() {
		return this.#place;
	}

	get search() {
		return this.#search;
	}

	get order() {
		return this.#order;
	}

	/** The cards in front, in order. */
	get shown(): readonly ModelCard[] {
		return this.#shown;
	}

	/** Id of the card whose details are shown. */
	get chosen() {
		return this.#chosen;
	}

	/** Changes with the question: then one looks from the top. */
	get topic() {
		return this.#topic;
	}

	/** How many there are of each kind. */
	get kinds(): ReadonlyMap<ModelKind, number> {
		return counted(this.#cards(), (card) => card.kind);
	}

	/** How many of the kind in front are of each family, most first. */
	get families(): [string, number][] {
		return [...counted(this.#ofKind, familyOf)].sort((a, b) => b[1] - a[1]);
	}

	/** How many of the kind in front lie in each folder. */
	get places(): ReadonlyMap<Place, number> {
		return counted(this.#ofKind, placeOf);
	}

	/** Whether cards of the kind are left out. */
	get narrowed() {
		return this.#search.trim() !== '' || this.#family !== null || this.#place !== null;
	}

	setKind(kind: ModelKind) {
		if (kind === this.#kind) return;
		this.#kind = kind;
		this.#family = null;
		this.#chosen = null;
		this.#ask();
	}

	setFamily(family: string | null) {
		this.#family = family;
		this.#ask();
	}

	setPlace(place: Place | null) {
		this.#place = place;
		this.#ask();
	}

	setSearch(search: string) {
		this.#search = search;
		this.#ask();
	}

	setOrder(order: Order) {
		this.#order = order;
		this.#ask();
	}

	/** All of the kind. */
	widen() {
		this.#search = '';
		this.#family = null;
		this.#place = null;
		this.#ask();
	}

	choose(id: number | null) {
		this.#chosen = id;
	}

	/** Brings a card to the front, wherever it is. */
	reveal(card: ModelCard) {
		this.#kind = card.kind;
		this.widen();
		this.#chosen = card.id;
	}

	save(): SavedShelf {
		return { kind: this.#kind, order: this.#order };
	}

	load(saved: Partial<SavedShelf> | undefined) {
		if (saved?.kind && KINDS.includes(saved.kind)) this.#kind = saved.kind;
		if (saved?.order && Object.hasOwn(ORDERS, saved.order)) this.#order = saved.order;
	}

	#ask() {
		this.#topic += 1;
		this.onchange?.();
	}
}

const KINDS: ModelKind[] = ['adapter', 'checkpoint', 'vae', 'embedding', 'other'];

const ORDERS: Record<Order, (a: ModelCard, b: ModelCard) => number> = {
	name: byTitle,
	used: (a, b) => (b.used_at ?? 0) - (a.used_at ?? 0) || byTitle(a, b),
	newest: (a, b) => b.modified_at - a.modified_at || byTitle(a, b)
};

// One collator for all: `localeCompare` makes one each time, and is slow for 2,000 cards.
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });

function byTitle(a: ModelCard, b: ModelCard) {
	return collator.compare(a.title, b.title) || a.id - b.id;
}

export const UNKNOWN_FAMILY = 'Not known';

const familyOf = (card: ModelCard) => card.family ?? UNKNOWN_FAMILY;
const placeOf = (card: ModelCard): Place => card.folder ?? 'elsewhere';

/** What the search looks in; made once a card. */
const texts = new WeakMap<ModelCard, string>();

function textOf(card: ModelCard) {
	let text = texts.get(card);
	if (text === undefined) {
		const { title, name, family, algorithm, trigger_words } = card;
		text = [title, name, family, algorithm, ...trigger_words].join(' ').toLowerCase();
		texts.set(card, text);
	}
	return text;
}

function counted<K>(cards: readonly ModelCard[], key: (card: ModelCard) => K): Map<K, number> {
	const counts = new Map<K, number>();
	for (const card of cards) counts.set(key(card), (counts.get(key(card)) ?? 0) + 1);
	return counts;
}
