/**
 * The arithmetic of combined strength: how many layers at weight 1 a stack amounts to. What takes
 * long, the products of the adapters' changes, comes from Rust once; a weight that moves costs only
 * the small form here.
 */
import type { AdapterParams } from '$lib/ipc/types';

/** A layer's weights, one for each network. */
export type Weights = Pick<
	AdapterParams,
	'unet_weight' | 'text_encoder_weight' | 'text_encoder_2_weight'
>;

/** All that decides how much of a layer there is, block by block. */
export type Acting = Weights & Pick<AdapterParams, 'blocks' | 'over_steps'>;

/** `⟨Δᵢ, Δⱼ⟩` at weight 1: for each pair of layers the 28 blocks. */
export type Products = readonly (readonly (readonly number[])[])[];

export interface Combined {
	strength: number;
	/** Each layer's part of it: together 1, or all 0. */
	parts: number[];
}

/**
 * Up to here a stack is comfortable. Calibrated with pictures of the starter: neon and ink at 1 come to
 * 1.38 and draw a fox that is both; one of them at 1.5 still draws it; at 1.5 and 1 (1.72), or one at 2, it
 * falls apart.
 */
export const COMFORTABLE = 1.5;

/** Below this the layers are hardly seen. */
const QUIET = 0.5;

/** Blocks, as Rust counts them: 0 and the last are text encoders, the last but one has no factor. */
const BLOCKS = 28;
const REST = 26;
const SECOND_TEXT_ENCODER = 27;

/** What the change of each block is multiplied by. A weight that changes over the steps counts at its most. */
export function factors(layer: Acting): number[] {
	const { unet_weight, text_encoder_weight, blocks, over_steps } = layer;
	const second = layer.text_encoder_2_weight ?? text_encoder_weight;
	const most = over_steps?.length ? Math.max(...over_steps.map(({ factor }) => factor)) : 1;
	return Array.from({ length: BLOCKS }, (_, block) => {
		if (block === 0) return text_encoder_weight * (blocks?.[0] ?? 1);
		if (block === SECOND_TEXT_ENCODER) return second * (blocks?.[0] ?? 1);
		return unet_weight * most * (block < REST ? (blocks?.[block] ?? 1) : 1);
	});
}

/** Whether there is anything of a layer anywhere: then Rust takes the words that it brings. */
export function weighs({ unet_weight, text_encoder_weight, text_encoder_2_weight }: Weights) {
	return [unet_weight, text_encoder_weight, text_encoder_2_weight].some((weight) => weight);
}

/** Of the layers that sound, with the products in the same order. */
export function combine(layers: readonly Acting[], products: Products): Combined {
	const by = layers.map(factors);
	const product = (i: number, j: number) =>
		(products[i]?.[j] ?? []).reduce(
			(sum, value, block) => sum + (by[i]?.[block] ?? 0) * (by[j]?.[block] ?? 0) * value,
			0
		);
	// What a layer adds to the whole: with itself, and with each of the others.
	const added = layers.map((_, i) => sum(layers.map((_, j) => product(i, j))));
	const square = Math.max(sum(added), 0);
	const largest = Math.max(...layers.map((_, i) => Math.sqrt(sum(products[i]?.[i] ?? []))), 0);
	const shown = added.map((part) => Math.max(part, 0));
	const whole = sum(shown);
	return {
		strength: largest > 0 ? Math.sqrt(square) / largest : 0,
		parts: shown.map((part) => (whole > 0 ? part / whole : 0))
	};
}

export type Loudness = 'quiet' | 'comfortable' | 'strong';

/** In the digits that are shown, so that 1.50 is never too much. */
export function loudness(strength: number): Loudness {
	const shown = Math.round(strength * 100) / 100;
	if (shown < QUIET) return 'quiet';
	return shown > COMFORTABLE ? 'strong' : 'comfortable';
}

/** Weights in the two digits that sliders have; towards 0, so that what is scaled down is not too much again. */
export function scaled(layer: Weights, factor: number): Weights {
	const times = (weight: number) =>
		Math.trunc(weight * factor * 100 + Math.sign(weight * factor) * 1e-9) / 100;
	return {
		unet_weight: times(layer.unet_weight),
		text_encoder_weight: times(layer.text_encoder_weight),
		...(layer.text_encoder_2_weight !== undefined && {
			text_encoder_2_weight: times(layer.text_encoder_2_weight)
		})
	};
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
