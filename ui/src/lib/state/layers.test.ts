import { beforeEach, describe, expect, it } from 'vitest';
import { preset } from '$lib/blocks';
import type { AdapterParams, GenerationParams, ModelCard } from '$lib/ipc/types';
import { Generation, weighedAlike } from './generation.svelte';

const ADAPTER: AdapterParams = {
	name: 'ink',
	unet_weight: 0.8,
	text_encoder_weight: 0.8,
	text_encoder_2_weight: 0.3,
	blocks: Array.from({ length: 26 }, (_, at) => at / 26),
	over_steps: [
		{ at: 0, factor: 0, fade: 'cosine' },
		{ at: 1, factor: 1, fade: 'hold' }
	],
	rank_limit: 4,
	enabled: true
};
const DEFAULTS = {
	version: 1,
	model: { name: 'sd15' },
	adapters: [],
	prompt: '',
	negative_prompt: '',
	steps: 20,
	seed: 1,
	init: null
} as unknown as GenerationParams;

const ink = { name: 'ink', default_weight: 0.8 } as ModelCard;

let generation: Generation;
const layer = () => generation.layers[0]!;

/** As it goes to Rust: what is not set is not there. */
const sent = () => JSON.parse(JSON.stringify(generation.params().adapters));

beforeEach(() => {
	generation = new Generation(DEFAULTS);
});

describe('what an adapter does beyond its weights', () => {
	it('comes with a recipe and goes out as it came', () => {
		generation.restore({ ...DEFAULTS, adapters: [ADAPTER] }, 'all');
		expect(sent()).toEqual([ADAPTER]);
	});

	it('is kept by stacks, sessions and Undo', () => {
		generation.restore({ ...DEFAULTS, adapters: [ADAPTER] }, 'all');
		const stack = JSON.parse(JSON.stringify(generation.saveStack()));
		const session = JSON.parse(JSON.stringify(generation.save()));
		generation.setBlocks(layer().key, null);
		generation.setOverSteps(layer().key, []);
		expect(sent()[0]).not.toHaveProperty('blocks');
		expect(sent()[0]).not.toHaveProperty('over_steps');
		generation.history.undo();
		expect(layer().over_steps).toEqual(ADAPTER.over_steps);
		generation.history.undo();
		expect(sent()).toEqual([ADAPTER]);
		for (const put of [
			(other: Generation) => other.loadStack(stack),
			(other: Generation) => other.load(session)
		]) {
			generation = new Generation(DEFAULTS);
			put(generation);
			expect(sent()).toEqual([ADAPTER]);
		}
	});

	it('is one entry of Undo for each gesture', () => {
		generation.addLayer(ink);
		generation.begin();
		for (const factor of [0.2, 0.4, 0.6]) {
			generation.setBlocks(layer().key, [factor, ...Array<number>(25).fill(1)]);
		}
		generation.end();
		expect(layer().blocks?.[0]).toBe(0.6);
		generation.history.undo();
		expect(layer().blocks).toBeUndefined();
	});

	it('is not said where it is as always', () => {
		generation.addLayer(ink);
		generation.setBlocks(layer().key, Array<number>(26).fill(1));
		generation.setOverSteps(layer().key, []);
		expect(sent()).toEqual([
			{ name: 'ink', unet_weight: 0.8, text_encoder_weight: 0.8, enabled: true }
		]);
	});

	it('tells the text encoders of SDXL apart as soon as one is set alone', () => {
		generation.addLayer(ink);
		const { key } = layer();
		generation.setWeight(key, 'text_encoder', 0.5);
		expect(layer()).not.toHaveProperty('text_encoder_2_weight');
		generation.setWeight(key, 'text_encoder_1', 0.4);
		expect(layer()).toMatchObject({ text_encoder_weight: 0.4, text_encoder_2_weight: 0.5 });
		generation.setTextEncoder2Weight(key, 0.4);
		expect(layer()).not.toHaveProperty('text_encoder_2_weight');
		generation.setTextEncoder2Weight(key, 0.1);
		expect(weighedAlike(layer())).toBe(false);
		generation.setWeight(key, 'both', 1);
		expect(weighedAlike(layer())).toBe(true);
		expect(layer()).not.toHaveProperty('text_encoder_2_weight');
	});

	it('is what a pasted tag says, and no more', () => {
		const blocks = preset('OUTALL')!;
		generation.addLayer(ink, {
			weight: 1,
			textEncoderWeight: 1,
			name: 'ink',
			blocks,
			start: 3,
			stop: 9,
			rankLimit: 4
		});
		expect(layer()).toMatchObject({
			blocks,
			rank_limit: 4,
			over_steps: [
				{ at: 0, factor: 0, fade: 'hold' },
				{ at: 2 / 19, factor: 1, fade: 'hold' },
				{ at: 9 / 19, factor: 0, fade: 'hold' }
			]
		});
		generation.useAllRanks(layer().key);
		expect(layer()).not.toHaveProperty('rank_limit');
		generation.addLayer(ink, { name: 'ink', weight: 0.5, textEncoderWeight: 0.5 });
		expect(sent()).toEqual([
			{ name: 'ink', unet_weight: 0.5, text_encoder_weight: 0.5, enabled: true }
		]);
	});

	it('folds without a loss', () => {
		generation.restore({ ...DEFAULTS, adapters: [ADAPTER] }, 'all');
		expect(layer().open).toBe(true);
		generation.setOpen(layer().key, false);
		expect(sent()).toEqual([ADAPTER]);
	});
});
