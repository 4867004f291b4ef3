import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { GenerationParams, ModelCard, Suggestion } from '$lib/ipc/types';
import { Acceleration, type Few } from './acceleration.svelte';
import { Generation } from './generation.svelte';

const LCM: Suggestion = {
	name: 'LCM',
	steps: 6,
	guidance_scale: 1.5,
	sampler: 'lcm',
	schedule: 'sgm_uniform'
};
const BEFORE: Few = { steps: 20, guidance_scale: 7, sampler: 'dpmpp_2m', schedule: 'karras' };
const WANTED: Few = { steps: 6, guidance_scale: 1.5, sampler: 'lcm', schedule: 'sgm_uniform' };

const card = { name: 'lcm-lora', default_weight: 1 } as ModelCard;
const other = { name: 'ink', default_weight: 1 } as ModelCard;

let generation: Generation;
let acceleration: Acceleration;
let leave: ReturnType<typeof vi.fn<(before: Few, back: () => void) => void>>;

const layer = () => generation.layers.find(({ name }) => name === 'lcm-lora')!;
const numbers = () => {
	const { steps, guidance_scale, sampler, schedule } = generation.numbers;
	return { steps, guidance_scale, sampler, schedule };
};

beforeEach(() => {
	const params = { ...BEFORE, model: { name: 'sd15' }, adapters: [], prompt: '', seed: 1 };
	generation = new Generation(params as unknown as GenerationParams);
	acceleration = new Acceleration(generation, ({ name }) => (name === 'lcm-lora' ? LCM : null));
	leave = vi.fn();
	acceleration.onleave = leave;
	generation.onchange = () => acceleration.follow();
	generation.addLayer(card);
});

describe('an acceleration adapter', () => {
	it('wants its numbers while it sounds, and near ones are as good', () => {
		generation.addLayer(other);
		expect(acceleration.wish(generation.layers[0]!)).toBeNull();
		expect(acceleration.wish(layer())).toBe(LCM);
		generation.setEnabled(layer().key, false);
		expect(acceleration.wish(layer())).toBeNull();
		generation.setEnabled(layer().key, true);
		generation.set({ ...WANTED, steps: 4, guidance_scale: 1 });
		expect(acceleration.wish(layer())).toBeNull();
		generation.set({ steps: 3 });
		expect(acceleration.wish(layer())).toBe(LCM);
		generation.set({ steps: 12 });
		expect(acceleration.wish(layer())).toBeNull();
		generation.set({ guidance_scale: 4 });
		expect(acceleration.wish(layer())).toBe(LCM);
	});

	it('sets them in one entry of Undo', () => {
		acceleration.take(layer());
		expect(numbers()).toEqual(WANTED);
		expect(acceleration.wish(layer())).toBeNull();
		generation.history.undo();
		expect(numbers()).toEqual(BEFORE);
		expect(generation.layers).toHaveLength(1);
		expect(leave).not.toHaveBeenCalled();
	});

	it('offers those from before each time that it goes, and they come back in one entry', () => {
		acceleration.take(layer());
		generation.setEnabled(layer().key, false);
		expect(leave).toHaveBeenCalledOnce();
		generation.setPrompt('a fox');
		expect(leave).toHaveBeenCalledOnce();
		generation.setEnabled(layer().key, true);
		generation.removeLayer(layer().key, []);
		expect(leave).toHaveBeenCalledTimes(2);
		const [before, back] = leave.mock.calls[1]!;
		expect(before).toEqual(BEFORE);
		back();
		expect(numbers()).toEqual(BEFORE);
		generation.history.undo();
		expect(numbers()).toEqual(WANTED);
	});

	it('offers nothing to who set other numbers since, or whose stack came back with it', () => {
		acceleration.take(layer());
		generation.loadStack(generation.saveStack());
		expect(leave).not.toHaveBeenCalled();
		generation.set({ steps: 30 });
		generation.removeLayer(layer().key, []);
		expect(leave).not.toHaveBeenCalled();
	});

	it('offers nothing where nothing was taken', () => {
		generation.removeLayer(layer().key, []);
		expect(leave).not.toHaveBeenCalled();
	});
});
