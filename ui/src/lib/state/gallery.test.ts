import { mockIPC } from '@tauri-apps/api/mocks';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { GalleryImage, GalleryQuery } from '$lib/ipc/types';
import { Details } from './details.svelte';
import { Gallery } from './gallery.svelte';

const image = (id: number): GalleryImage => ({
	id,
	name: `${id}.png`,
	path: `${id}.png`,
	width: 64,
	height: 64,
	favourite: false,
	created_at: id,
	seconds: null,
	device: null,
	params: null,
	patches: [],
	warnings: []
});

let stored: number[];
let asked: GalleryQuery[];
let batches: number[][];

beforeEach(() => {
	vi.useFakeTimers();
	stored = Array.from({ length: 500 }, (_, at) => 500 - at);
	asked = [];
	batches = [];
	mockIPC((command, payload) => {
		const args = payload as { query: GalleryQuery; ids: number[] };
		switch (command) {
			case 'image_ids':
				if (args.query.since === null) asked.push(args.query);
				return Uint32Array.from(stored).buffer;
			case 'images':
				batches.push(args.ids);
				return args.ids.map(image);
			case 'gallery_counts':
				return { all: stored.length, favourites: 0, grounds: [], adapters: [] };
		}
	});
});

afterEach(() => vi.useRealTimers());

const settled = () => vi.advanceTimersByTimeAsync(1_000);

describe('the gallery', () => {
	it('asks for nothing before it is opened, and again for a change while it was closed', async () => {
		const gallery = new Gallery();
		gallery.handle({ event: 'gallery', data: { revision: 1 } });
		await settled();
		expect(asked).toHaveLength(0);
		gallery.open();
		await settled();
		expect(gallery.ids).toHaveLength(500);
		gallery.close();
		stored = stored.slice(1);
		gallery.handle({ event: 'gallery', data: { revision: 2 } });
		await settled();
		expect(asked).toHaveLength(1);
		gallery.open();
		await settled();
		expect(gallery.ids).toHaveLength(499);
	});

	it('asks once for a word that is typed, and once for events that come together', async () => {
		const gallery = new Gallery();
		gallery.open();
		await settled();
		for (const text of ['o', 'ow', 'owl']) {
			gallery.setSearch(text);
			await vi.advanceTimersByTimeAsync(80);
		}
		await settled();
		expect(asked.map((query) => query.search)).toEqual(['', 'owl']);
		for (let revision = 1; revision < 9; revision += 1) {
			gallery.handle({ event: 'gallery', data: { revision } });
		}
		await settled();
		expect(asked).toHaveLength(3);
	});

	it('keeps the selection and the topic over a revision, and asks anew what is in sight', async () => {
		const gallery = new Gallery();
		gallery.open();
		await settled();
		gallery.see(0, 20);
		await settled();
		gallery.pick(4);
		const { topic } = gallery;
		stored = [501, ...stored];
		batches = [];
		gallery.handle({ event: 'gallery', data: { revision: 2 } });
		await settled();
		expect(gallery.topic).toBe(topic);
		expect(gallery.selection.active).toBe(496);
		expect(gallery.selection.at).toBe(5);
		expect(batches.flat()).toContain(501);
		gallery.setFilter({ favourites: true });
		await settled();
		expect(gallery.topic).not.toBe(topic);
	});

	it('fetches what is in sight when scrolling has come to rest, not what flew past', async () => {
		const gallery = new Gallery();
		gallery.open();
		await settled();
		batches = [];
		for (let first = 0; first < 400; first += 20) {
			gallery.see(first, first + 20);
			await vi.advanceTimersByTimeAsync(16);
		}
		await settled();
		expect(batches).toHaveLength(1);
		expect(batches[0]).toHaveLength(20);
		expect(batches[0]?.[0]).toBe(120);
	});

	it('shows the newest answer, whichever comes last', async () => {
		let answer: (ids: ArrayBuffer) => void = () => undefined;
		mockIPC((command, payload) => {
			if (command === 'gallery_counts') return { all: 0, favourites: 0, grounds: [], adapters: [] };
			if (command !== 'image_ids') return [];
			const { query } = payload as { query: GalleryQuery };
			if (query.favourites) return new Promise((resolve) => (answer = resolve));
			return Uint32Array.from([1, 2, 3]).buffer;
		});
		const gallery = new Gallery();
		gallery.open();
		gallery.setFilter({ favourites: true });
		gallery.setFilter({ favourites: false });
		await settled();
		answer(Uint32Array.from([9]).buffer);
		await settled();
		expect([...gallery.ids]).toEqual([1, 2, 3]);
	});
});

describe('details', () => {
	it('asks for each once, and forgets those that were not looked at for longest', async () => {
		const details = new Details();
		await Promise.all([details.want([1, 2]), details.want([2, 3])]);
		expect(batches).toEqual([[1, 2], [3]]);
		for (let first = 10; first < 2_300; first += 100) {
			await details.want([1, ...Array.from({ length: 100 }, (_, at) => first + at)]);
		}
		expect(details.of(1)?.name).toBe('1.png');
		expect(details.of(2)).toBeUndefined();
	});

	it('shows what it knows until the new is there', async () => {
		const details = new Details();
		await details.want([1]);
		details.age();
		expect(details.of(1)).toBeDefined();
		await details.want([1]);
		expect(batches).toEqual([[1], [1]]);
	});
});
