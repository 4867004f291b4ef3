import { beforeEach, describe, expect, it } from 'vitest';
import { Selection } from './selection.svelte';

let list: Uint32Array;
let selection: Selection;

beforeEach(() => {
	list = Uint32Array.from([90, 80, 70, 60, 50, 40]);
	selection = new Selection(() => list);
});

describe('selecting', () => {
	it('picks one, then one more with Ctrl, then a range with Shift', () => {
		selection.pick(1);
		selection.pick(3, { toggle: true });
		expect(selection.ordered).toEqual([80, 60]);
		selection.pick(5, { extend: true });
		expect(selection.ordered).toEqual([60, 50, 40]);
		selection.pick(2, { extend: true });
		expect(selection.ordered).toEqual([70, 60]);
	});

	it('takes one off again with Ctrl', () => {
		selection.all();
		selection.pick(0, { toggle: true });
		expect(selection.count).toBe(5);
		expect(selection.has(90)).toBe(false);
	});

	it('keeps what is selected where it moved to, when a picture arrives on top', () => {
		selection.pick(2);
		list = Uint32Array.from([100, ...list]);
		selection.settle(true);
		expect(selection.active).toBe(70);
		expect(selection.at).toBe(3);
		expect(selection.ordered).toEqual([70]);
	});

	it('goes on to the neighbour when what was selected is deleted', () => {
		selection.pick(1);
		selection.pick(2, { extend: true });
		list = Uint32Array.from([90, 60, 50, 40]);
		selection.settle(true);
		expect(selection.ordered).toEqual([50]);
		selection.pick(3);
		list = Uint32Array.from([90, 60, 50]);
		selection.settle(true);
		expect(selection.active).toBe(50);
	});

	it('selects nothing that was not picked when another question was asked', () => {
		selection.pick(1);
		list = Uint32Array.from([60, 50]);
		selection.settle(false);
		expect(selection.count).toBe(0);
		expect(selection.active).toBeNull();
	});
});
