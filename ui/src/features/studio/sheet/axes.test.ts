/** What can be an axis, and what it begins with. */
import { describe, expect, it } from 'vitest';
import type { GenerationParams, ModelCard } from '$lib/ipc/types';
import { Generation } from '$lib/state/generation.svelte';
import type { Studio } from '$lib/state/studio.svelte';
import { choices, layerChoices, suggested, wish } from './axes';

const card = (name: string, kind: string) =>
	({ name, kind, title: name.toUpperCase(), family: 'SD 1.x', usable: true }) as ModelCard;

function studioWith(prompt: string): Studio {
	const params = {
		version: 1,
		model: { name: 'starter' },
		adapters: [
			{ name: 'neon', sha256: 'aa', unet_weight: 1, text_encoder_weight: 1, enabled: true },
			{ name: 'alien', unet_weight: 1, text_encoder_weight: 1, enabled: true }
		],
		prompt,
		negative_prompt: '',
		steps: 15,
		sampler: 'euler',
		schedule: 'karras',
		seed: 7,
		init: null
	} as unknown as GenerationParams;
	const generation = new Generation(params);
	const named = (id: string) => ({ id, name: id.toUpperCase() });
	return {
		generation,
		catalog: { samplers: ['heun', 'euler', 'lcm', 'ddim'].map(named), schedules: [] },
		library: {
			cards: [card('sd15', 'checkpoint'), card('a, b', 'checkpoint'), card('neon', 'adapter')]
		},
		groundCard: card('starter', 'checkpoint'),
		cardOf: ({ name }: { name: string }) => card(name, 'adapter'),
		reasonOut: ({ name }: { name: string }) => (name === 'alien' ? 'Made for SDXL.' : null)
	} as unknown as Studio;
}

describe('the axes of a sheet', () => {
	it('are the layers that have a part in the picture, then the numbers', () => {
		const studio = studioWith('a fox');
		expect(layerChoices(studio).map(({ label }) => label)).toEqual(['NEON']);
		const labels = choices(studio).map(({ label }) => label);
		expect(labels.slice(0, 3)).toEqual(['NEON', 'Steps', 'Guidance']);
		// There is no picture to start from.
		expect(labels).not.toContain('Denoising strength');
	});

	it('begin near what is set', () => {
		const studio = studioWith('an (owl:1.2), dusk');
		const [neon] = layerChoices(studio);
		expect(suggested(studio, neon?.value ?? '')).toBe('0-1 [5]');
		expect(suggested(studio, 'steps')).toBe('8, 15, 30');
		expect(suggested(studio, 'seed')).toBe('7-10');
		expect(suggested(studio, 'sampler')).toBe('EULER, HEUN, LCM');
		expect(suggested(studio, 'model')).toBe('starter, sd15, "a, b"');
		expect(suggested(studio, 'words')).toBe('owl');
		expect(suggested(studioWith(''), 'words')).toBe('');
	});

	it('name the file of a layer and what the person calls it', () => {
		const studio = studioWith('a fox');
		const of = layerChoices(studio)[0]?.value ?? '';
		expect(wish(studio, { of, part: 'unet', values: '0, 1' })).toEqual({
			target: { kind: 'weight', file: { name: 'neon', sha256: 'aa' }, part: 'unet' },
			title: 'NEON',
			values: '0, 1'
		});
		expect(wish(studio, { of: 'steps', part: 'both', values: '4' })).toEqual({
			target: { kind: 'steps' },
			title: null,
			values: '4'
		});
	});
});
