import { describe, expect, it } from 'vitest';
import type { Catalog, GalleryImage, GenerationParams } from '$lib/ipc/types';
import { rowsOf, weightOf, weightsOf } from './recipe';

const catalog = {
	samplers: [{ id: 'dpmpp_2m', name: 'DPM++ 2M' }],
	schedules: [{ id: 'karras', name: 'Karras' }]
} as unknown as Catalog;

const params = {
	negative_prompt: '',
	sampler: 'dpmpp_2m',
	schedule: 'of another program',
	steps: 20,
	guidance_scale: 4,
	seed: 7,
	init: null,
	vae: null,
	prediction: null,
	sizes: null,
	embeddings: [],
	refiner: null,
	clip_skip: 1
} as unknown as GenerationParams;

const image = {
	width: 128,
	height: 96,
	created_at: 0,
	seconds: null,
	device: null
} as GalleryImage;

describe('a recipe in words', () => {
	it('names what it knows, says what it does not know as it is, and leaves out what is as always', () => {
		const rows = new Map(rowsOf({ ...image, params }, catalog));
		expect(rows.get('Sampler')).toBe('DPM++ 2M · of another program');
		expect(rows.get('Steps, guidance')).toBe('20 · 4.0');
		expect(rows.get('Size')).toBe('128 × 96');
		expect(rows.has('Negative')).toBe(false);
		expect(rows.has('Clip skip')).toBe(false);
	});

	it('has size and time for a file without a recipe', () => {
		const rows = rowsOf({ ...image, params: null }, catalog);
		expect(rows.map(([label]) => label)).toEqual(['Size', 'Made']);
	});

	it('has one weight, or one for each network', () => {
		const adapter = { name: 'ink', unet_weight: 0.9, text_encoder_weight: 0.9, enabled: true };
		expect(weightOf(adapter)).toBe('0.90');
		const apart = { ...adapter, text_encoder_weight: 0.3 };
		expect(weightOf(apart)).toBeNull();
		expect(weightsOf(apart)).toBe('UNet 0.90 · text encoder 0.30');
		expect(weightsOf(adapter)).toBeNull();
		const fading = {
			...adapter,
			over_steps: [
				{ at: 1, factor: 0, fade: 'linear' as const },
				{ at: 0, factor: 1, fade: 'linear' as const }
			],
			rank_limit: 4
		};
		expect(weightsOf(fading)).toBe('over the steps 0.90 → 0.00 · rank 4 at most');
	});
});
