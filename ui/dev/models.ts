// The library of the double: the starter and its styles, some others, and as many more as one asks for.
import type { BlockCoverage, GenerationParams, ModelCard } from '../src/lib/ipc/types';

export const DEFAULTS: GenerationParams = {
	version: 1,
	model: { name: 'starter' },
	vae: null,
	adapters: [],
	prompt: 'a fox on a light blue background',
	negative_prompt: '',
	width: 128,
	height: 128,
	steps: 20,
	guidance_scale: 4,
	sampler: 'dpmpp_2m',
	schedule: 'karras',
	seed: 7,
	rng: 'torch-cpu',
	clip_skip: 1,
	precision: 'f32',
	init: null,
	prediction: null,
	noise: null,
	embeddings: [],
	sizes: null,
	refiner: null
};

let id = 0;

function card(part: Partial<ModelCard> & Pick<ModelCard, 'name' | 'title' | 'kind'>): ModelCard {
	id += 1;
	return {
		id,
		path: `models/${part.name}.safetensors`,
		folder: 0,
		family: 'SD 1.x',
		summary: '',
		precision: 'f16',
		algorithm: null,
		rank: null,
		modules: 0,
		bytes: 3_300_000 + id * 71_003,
		modified_at: Date.UTC(2026, 9, 1 + (id % 28)),
		usable: true,
		notes: [],
		trigger_words: [],
		default_weight: 0.9,
		cover: null,
		pigment: id % 12,
		sha256: null,
		duplicate_of: null,
		starter: false,
		defaults: null,
		acceleration: null,
		facts: [],
		used_at: null,
		note: {
			title: null,
			trigger_words: null,
			default_weight: null,
			pigment: null,
			prediction: null,
			acceleration: null
		},
		...part
	};
}

const style = (name: string, title: string, words: string[], part: Partial<ModelCard> = {}) =>
	card({
		kind: 'adapter',
		name,
		title,
		summary: `${part.algorithm ?? 'LoCon'} · rank 8`,
		algorithm: 'LoCon',
		rank: [8, 8],
		modules: 138,
		trigger_words: words,
		facts: [
			['Trainer', 'kohya-ss'],
			['Licence', 'Apache-2.0']
		],
		...part
	});

export function cards(more: number): ModelCard[] {
	id = 0;
	const known = [
		card({
			kind: 'checkpoint',
			name: 'starter',
			title: 'Starter',
			summary: 'v-prediction',
			starter: true,
			bytes: 27_000_000,
			modules: 686,
			cover: 1,
			defaults: DEFAULTS
		}),
		style('neon', 'Neon Glow', ['neon style'], { starter: true, pigment: 7, cover: 1 }),
		style('watercolor', 'Watercolour', ['watercolor style', 'pastel'], {
			starter: true,
			pigment: 3,
			cover: 1,
			algorithm: 'LoHa',
			summary: 'LoHa · rank 4'
		}),
		style('ink', 'Ink Drawing', ['ink drawing style'], { starter: true, pigment: 5 }),
		style('pixel', 'Pixel Art', ['pixel art style'], {
			starter: true,
			pigment: 0,
			used_at: Date.now() - 9e6
		}),
		style('twemoji', 'Twemoji Flat', ['twemoji style'], { starter: true, pigment: 8 }),
		style('alien', 'Alien Style', ['alien'], {
			pigment: 4,
			family: 'SDXL',
			summary: 'LoRA · rank 16',
			algorithm: 'LoRA'
		}),
		card({
			kind: 'checkpoint',
			name: 'sd15',
			title: 'Stable Diffusion 1.5',
			summary: 'epsilon',
			precision: 'PyTorch file · f32',
			bytes: 4_265_000_000,
			modules: 1_130,
			folder: null,
			facts: [['Licence', 'CreativeML Open RAIL-M']],
			defaults: { ...DEFAULTS, model: { name: 'sd15' }, width: 512, height: 512, guidance_scale: 7 }
		}),
		card({
			kind: 'checkpoint',
			name: 'sdxl-base',
			title: 'SDXL base',
			family: 'SDXL',
			bytes: 6_900_000_000,
			defaults: { ...DEFAULTS, model: { name: 'sdxl-base' }, width: 1024, height: 1024 }
		}),
		card({
			kind: 'vae',
			name: 'vae-ft-mse',
			title: 'vae-ft-mse',
			summary: 'VAE',
			bytes: 335_000_000
		}),
		card({
			kind: 'embedding',
			name: 'easynegative',
			title: 'easynegative',
			usable: false,
			notes: ['An embedding of words. These cannot be used yet.']
		}),
		style('lcm-lora', 'LCM LoRA', [], {
			pigment: 9,
			default_weight: 1,
			algorithm: 'LoRA',
			summary: 'LoRA · rank 64',
			acceleration: {
				name: 'LCM',
				steps: 6,
				guidance_scale: 1.5,
				sampler: 'lcm',
				schedule: 'sgm_uniform'
			}
		})
	];
	const algorithms = ['LoRA', 'LoCon', 'LoHa'];
	const extra = Array.from({ length: more }, (_, at) =>
		style(`adapter-${at}`, `Adapter ${at}`, at % 3 ? [`word${at}`] : [], {
			algorithm: algorithms[at % 3] ?? 'LoRA',
			summary: `${algorithms[at % 3]} · rank ${4 << (at % 5)}`,
			modules: 264
		})
	);
	return [...known, ...extra];
}

/** Modules of each block, text encoders and what is in no block aside: resnets, attention, sampling. */
const SHAPES: Record<string, { in: number[]; middle: number; out: number[] }> = {
	'SD 1.x': {
		in: [1, 14, 14, 1, 14, 14, 1, 14, 14, 1, 4, 4],
		middle: 20,
		out: [4, 4, 5, 15, 15, 16, 15, 15, 16, 15, 15, 15]
	},
	SDXL: {
		in: [1, 4, 4, 1, 28, 28, 1, 124, 124],
		middle: 140,
		out: [125, 125, 126, 29, 29, 30, 4, 4, 4]
	}
};

/** A LoRA changes attention alone, other adapters all; the watercolour was trained without its deepest blocks. */
export function coverageOf(adapter: ModelCard, ground: ModelCard | undefined): BlockCoverage[] {
	const shape = SHAPES[ground?.family ?? ''];
	if (!shape) return [];
	const numbered = (name: string, first: number) => (of: number, at: number) => ({
		block: `${name}${String(at).padStart(2, '0')}`,
		index: first + at,
		of
	});
	const blocks = [
		{ block: 'TE', index: 0, of: 72 },
		...shape.in.map(numbered('IN', 1)),
		{ block: 'MID', index: 13, of: shape.middle },
		...shape.out.map(numbered('OUT', 14)),
		{ block: 'other', index: 26, of: 6 },
		...(ground?.family === 'SDXL' ? [{ block: 'TE2', index: 27, of: 192 }] : [])
	];
	return blocks.map((block) => {
		const { index, of } = block;
		const whole = adapter.algorithm !== 'LoRA' && index !== 26;
		const left = adapter.name === 'watercolor' && index > 9 && index < 16;
		const attention = index === 0 || index === 27 ? of : of >= 14 ? of - 4 : 0;
		return { ...block, changed: left ? 0 : whole ? of : index === 26 ? 0 : attention };
	});
}
