import { mockIPC } from '@tauri-apps/api/mocks';
import { beforeEach, describe, expect, it } from 'vitest';
import type { ModelCard, ModelNote } from '$lib/ipc/types';
import { Library } from './library.svelte';

const NOTHING: ModelNote = {
	title: null,
	trigger_words: null,
	default_weight: null,
	pigment: null,
	prediction: null,
	acceleration: null
};

function card(id: number, part: Partial<ModelCard> = {}): ModelCard {
	return {
		id,
		kind: 'adapter',
		name: `adapter-${id}`,
		title: `Adapter ${id}`,
		path: `adapter-${id}.safetensors`,
		folder: 0,
		family: id % 3 ? 'SD 1.x' : 'SDXL',
		summary: '',
		precision: 'f16',
		algorithm: 'LoRA',
		rank: [8, 8],
		modules: 264,
		bytes: 1,
		modified_at: id,
		usable: true,
		notes: [],
		trigger_words: [`word${id}`],
		default_weight: 1,
		cover: null,
		pigment: id % 12,
		sha256: null,
		duplicate_of: null,
		starter: false,
		defaults: null,
		acceleration: null,
		facts: [],
		used_at: null,
		note: NOTHING,
		...part
	};
}

let cards: ModelCard[];
let notes: ModelNote[];
let library: Library;

beforeEach(async () => {
	cards = [
		...Array.from({ length: 2_000 }, (_, at) => card(at + 1)),
		card(3_001, { kind: 'checkpoint', name: 'ground', title: 'Ground', folder: null })
	];
	notes = [];
	mockIPC((command, payload) => {
		if (command === 'library')
			return { revision: 1, cards, folders: [], offers: [], scanning: false };
		if (command === 'set_model_note') notes.push((payload as { note: ModelNote }).note);
	});
	library = new Library();
	await library.refresh();
});

describe('the shelf', () => {
	it('searches title, name, family and trigger words of 2,000 cards for all the words', () => {
		const { shelf } = library;
		expect(shelf.shown).toHaveLength(2_000);
		shelf.setSearch('word1999 SD');
		expect(shelf.shown.map(({ id }) => id)).toEqual([1_999]);
		shelf.setSearch('sdxl adapter');
		expect(shelf.shown).toHaveLength(666);
	});

	it('narrows by kind, family and folder, and counts what there is', () => {
		const { shelf } = library;
		shelf.setFamily('SDXL');
		expect(shelf.shown).toHaveLength(666);
		expect(shelf.families).toEqual([
			['SD 1.x', 1_334],
			['SDXL', 666]
		]);
		shelf.setKind('checkpoint');
		expect(shelf.family).toBeNull();
		expect(shelf.places.get('elsewhere')).toBe(1);
		shelf.setPlace('elsewhere');
		expect(shelf.shown.map(({ name }) => name)).toEqual(['ground']);
	});

	it('sorts names as people count, files by age, and the used ones first', async () => {
		const { shelf } = library;
		expect(shelf.shown.slice(0, 3).map(({ title }) => title)).toEqual([
			'Adapter 1',
			'Adapter 2',
			'Adapter 3'
		]);
		shelf.setOrder('newest');
		expect(shelf.shown[0]?.id).toBe(2_000);
		cards = cards.map((one) => (one.id === 77 ? { ...one, used_at: 5 } : one));
		await library.refresh();
		shelf.setOrder('used');
		expect(shelf.shown[0]?.id).toBe(77);
	});
});

describe('the library', () => {
	it('finds a file by its hash under another name, and never one with another hash', async () => {
		cards = [
			card(1, { name: 'ink', sha256: 'aa' }),
			card(2, { name: 'renamed', sha256: 'bb' }),
			card(3, { name: 'ink', sha256: 'aa', kind: 'vae' })
		];
		await library.refresh();
		expect(library.find({ name: 'ink', sha256: 'bb' }, 'adapter')?.id).toBe(2);
		expect(library.find({ name: 'ink' }, 'adapter')?.id).toBe(1);
		expect(library.find({ name: 'ink', sha256: 'cc' }, 'adapter')).toBeUndefined();
		expect(library.find({ name: 'ink', sha256: 'aa' }, 'vae')?.id).toBe(3);
	});

	it('changes one part of a note and keeps the others', async () => {
		const known = card(1, { note: { ...NOTHING, title: 'Mine', pigment: 4 } });
		await library.note(known, { trigger_words: ['ink'] });
		await library.note(known, { title: null });
		expect(notes).toEqual([
			{
				title: 'Mine',
				trigger_words: ['ink'],
				default_weight: null,
				pigment: 4,
				prediction: null,
				acceleration: null
			},
			{
				title: null,
				trigger_words: null,
				default_weight: null,
				pigment: 4,
				prediction: null,
				acceleration: null
			}
		]);
	});

	it('follows a copy until it is done, and keeps why one failed', () => {
		const copying = (done: number, message?: string) =>
			library.handle({
				event: 'copying',
				data: {
					card: 1,
					done,
					total: 10,
					error: message ? { code: 'unknown', field: null, message, hint: null } : null
				}
			});
		copying(4);
		expect(library.copying.get(1)?.done).toBe(4);
		copying(5, 'The disk is full.');
		expect(library.copying.get(1)?.error?.message).toBe('The disk is full.');
		copying(10);
		expect(library.copying.has(1)).toBe(false);
	});
});

describe('what is in front', () => {
	it('comes back at the next start, and nonsense in a session is left alone', () => {
		const { shelf } = library;
		shelf.setKind('checkpoint');
		shelf.setOrder('newest');
		const next = new Library();
		next.shelf.load(shelf.save());
		expect(next.shelf.kind).toBe('checkpoint');
		expect(next.shelf.order).toBe('newest');
		next.shelf.load({ kind: 'paint' as never, order: 'toString' as never });
		expect(next.shelf.order).toBe('newest');
	});

	it('follows a conversion until the new model is there', () => {
		let there: number | null = null;
		library.onconverted = (made) => (there = made);
		const converting = (done: number, made: number | null, code?: 'cancelled' | 'unknown') =>
			library.handle({
				event: 'converting',
				data: {
					card: 1,
					done,
					total: 10,
					made,
					error: code ? { code, field: null, message: 'No.', hint: null } : null
				}
			});
		// All bytes are written, but it has no card yet.
		converting(10, null);
		expect(library.converting.get(1)?.done).toBe(10);
		converting(10, 9);
		expect([library.converting.has(1), there]).toEqual([false, 9]);
		converting(3, null, 'unknown');
		expect(library.converting.get(1)?.error?.message).toBe('No.');
		converting(3, null, 'cancelled');
		expect(library.converting.has(1)).toBe(false);
	});
});
