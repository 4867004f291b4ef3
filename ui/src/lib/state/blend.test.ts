/** The blend pad on a stack: what it writes, what it keeps, and what it reads back. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { AdapterParams, GenerationParams } from '$lib/ipc/types';
import { Blend } from './blend.svelte';
import { Generation } from './generation.svelte';

const adapter = (name: string, weight: number, part: Partial<AdapterParams> = {}) => ({
	name,
	unet_weight: weight,
	text_encoder_weight: weight,
	enabled: true,
	...part
});

let generation: Generation;
let blend: Blend;

function lay(...adapters: AdapterParams[]) {
	generation = new Generation({ adapters, model: { name: 'ground' } } as GenerationParams);
	blend = new Blend(generation);
}

const weights = () => generation.layers.map((layer) => layer.unet_weight);
const keyOf = (name: string) => generation.layers.find((layer) => layer.name === name)?.key ?? 0;
const names = () => blend.corners.map((layer) => layer.name);

beforeEach(() => lay(adapter('a', 0.6), adapter('b', 0.2)));

describe('the blend pad', () => {
	it('begins where the weights are', () => {
		expect(blend.place.x).toBeCloseTo(0.25);
		expect(blend.place.y).toBeCloseTo(0.5);
		expect(blend.amount).toBeCloseTo(0.8);
		lay(adapter('a', 0), adapter('b', 0));
		expect(blend.place).toEqual({ x: 0.5, y: 0.5 });
		expect(blend.amount).toBe(1);
	});

	it('shares the amount out', () => {
		blend.move({ x: 0.75, y: 0.1 });
		expect(weights()).toEqual([0.2, 0.6]);
		expect(generation.layers[0]?.text_encoder_weight).toBe(0.2);
		blend.setAmount(1.6);
		expect(weights()).toEqual([0.4, 1.2]);
		blend.reset();
		expect(weights()).toEqual([0.8, 0.8]);
	});

	it('is one entry of Undo for each drag', () => {
		generation.begin();
		for (const x of [0.3, 0.5, 0.9]) blend.move({ x, y: 0.5 });
		generation.end();
		generation.history.undo();
		expect(weights()).toEqual([0.6, 0.2]);
		expect(generation.history.canUndo).toBe(false);
		expect(blend.place.x).toBeCloseTo(0.25);
		generation.history.redo();
		expect(blend.place.x).toBe(0.9);
	});

	it('finds its way back from an amount of 0, and moves in steps finer than the weights', () => {
		blend.setAmount(0);
		expect(weights()).toEqual([0, 0]);
		blend.setAmount(1);
		expect(weights()).toEqual([0.75, 0.25]);
		blend.setAmount(0.1);
		for (let step = 0; step < 10; step += 1) blend.move({ x: blend.place.x + 0.02, y: 0.5 });
		expect(blend.place.x).toBeCloseTo(0.45);
	});

	it('moves along when a slider is moved', () => {
		blend.move({ x: 0.5, y: 0.5 });
		generation.setWeight(keyOf('b'), 'both', 1.2);
		expect(blend.place.x).toBeCloseTo(0.75);
		expect(blend.amount).toBeCloseTo(1.6);
	});

	it('keeps the ratio of a layer’s networks, over a 0 as well', () => {
		lay(
			adapter('a', 0.8, { text_encoder_weight: 0.4, text_encoder_2_weight: 0.2 }),
			adapter('b', 0)
		);
		blend.move({ x: 0.5, y: 0.5 });
		expect(generation.layers[0]).toMatchObject({
			unet_weight: 0.4,
			text_encoder_weight: 0.2,
			text_encoder_2_weight: 0.1
		});
		expect(generation.layers[1]).not.toHaveProperty('text_encoder_2_weight');
		blend.move({ x: 1, y: 0.5 });
		blend.move({ x: 0, y: 0.5 });
		expect(generation.layers[0]).toMatchObject({ unet_weight: 0.8, text_encoder_weight: 0.4 });
	});

	it('stays within what sliders can be set to', () => {
		lay(adapter('a', 4), adapter('b', 4));
		blend.move({ x: 1, y: 0.5 });
		expect(weights()).toEqual([0, 4]);
	});
});

describe('the layers at its corners', () => {
	beforeEach(() => lay(...['a', 'b', 'c', 'd', 'e', 'f'].map((name) => adapter(name, 0.5))));

	it('are the top four that are switched on and do not stay out', () => {
		generation.setEnabled(keyOf('a'), false);
		generation.staysOut = (layer) => layer.name === 'c';
		expect(names()).toEqual(['b', 'd', 'e', 'f']);
	});

	it('can be chosen, four at most and two at least', () => {
		blend.choose(keyOf('f'));
		expect(names()).toEqual(['a', 'b', 'c', 'd']);
		blend.choose(keyOf('a'));
		blend.choose(keyOf('f'));
		expect(names()).toEqual(['b', 'c', 'd', 'f']);
		for (const name of ['b', 'c', 'd']) blend.choose(keyOf(name));
		expect(names()).toEqual(['d', 'f']);
		blend.move({ x: 1, y: 0.5 });
		expect(weights()).toEqual([0.5, 0.5, 0.5, 0, 0.5, 1]);
	});

	it('are the top ones again when too few of the chosen are left', () => {
		for (const name of ['a', 'b']) blend.choose(keyOf(name));
		generation.setEnabled(keyOf('c'), false);
		expect(names()).toEqual(['a', 'b', 'd', 'e']);
	});

	it('are two at least: else it closes, and says why', () => {
		lay(adapter('a', 0.5), adapter('b', 0.5));
		expect(blend.reason).toBeNull();
		blend.toggle();
		expect(blend.open).toBe(true);
		generation.setEnabled(keyOf('a'), false);
		expect(blend.open).toBe(false);
		expect(blend.reason).toContain('two layers');
	});
});
