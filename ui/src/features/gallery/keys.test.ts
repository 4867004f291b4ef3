import { mockIPC } from '@tauri-apps/api/mocks';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { Gallery } from '$lib/state/gallery.svelte';
import type { Actions } from './actions';
import { pressed } from './keys';

const grid = { way: (key: string) => (key === 'ArrowRight' ? 1 : null), reveal: vi.fn() };
let gallery: Gallery;
let actions: Actions;

beforeEach(async () => {
	mockIPC((command) => {
		if (command === 'image_ids') return Uint32Array.from([3, 2, 1]).buffer;
		return command === 'images' ? [] : { all: 3, favourites: 0, grounds: [], adapters: [] };
	});
	document.body.innerHTML = '<input /><button></button>';
	gallery = new Gallery();
	gallery.open();
	await vi.waitFor(() => expect(gallery.ids).toHaveLength(3));
	const names = ['favourite', 'remove', 'copyPicture', 'copyRecipe', 'showFile', 'drag'] as const;
	actions = Object.fromEntries(names.map((name) => [name, vi.fn()])) as unknown as Actions;
});

function press(key: string, on: Element = document.body, held: KeyboardEventInit = {}) {
	let done = false;
	on.addEventListener(
		'keydown',
		(event) => (done = pressed(event as KeyboardEvent, gallery, actions, grid)),
		{ once: true }
	);
	on.dispatchEvent(new KeyboardEvent('keydown', { key, ...held }));
	return done;
}

describe('keys of the gallery', () => {
	it('do nothing to pictures while none is selected', () => {
		for (const key of ['f', 'c', 'Delete', 'Enter', 'Escape']) expect(press(key)).toBe(false);
		expect(actions.remove).not.toHaveBeenCalled();
	});

	it('walk, and act on what is selected', () => {
		expect(press('ArrowRight')).toBe(true);
		expect(gallery.selection.ordered).toEqual([2]);
		press('f');
		press('c');
		press('Delete');
		expect(actions.favourite).toHaveBeenCalledTimes(1);
		expect(actions.copyPicture).toHaveBeenCalledTimes(1);
		expect(actions.remove).toHaveBeenCalledTimes(1);
		press('Enter');
		expect(gallery.full).toBe(true);
	});

	it('are letters in a field, and Enter is the button’s on a button', () => {
		gallery.pick(0);
		const [field, button] = document.body.children as unknown as [Element, Element];
		expect(press('f', field)).toBe(false);
		expect(press('a', field, { ctrlKey: true })).toBe(false);
		expect(press('Enter', button)).toBe(false);
		expect(press('Delete', button)).toBe(true);
	});

	it('leave everything alone under a dialog', () => {
		gallery.pick(0);
		document.body.insertAdjacentHTML('beforeend', '<div role="dialog"></div>');
		expect(press('Delete')).toBe(false);
	});
});
