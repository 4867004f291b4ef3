/** A recipe in the words of the window: labels and values. */
import { caption, inOrder } from '$lib/curve';
import { dotted, duration, nameOf, sizesOf } from '$lib/format';
import type { AdapterParams, Catalog, GalleryImage } from '$lib/ipc/types';
import { when } from '$lib/when';

/** "0.90"; `null` where each network has its own. */
export function weightOf({ unet_weight, text_encoder_weight }: AdapterParams): string | null {
	return unet_weight === text_encoder_weight ? unet_weight.toFixed(2) : null;
}

/** "UNet 0.90 · text encoder 0.30", "over the steps 0.90 → 0.00": what one number does not say; `null` for nothing. */
export function weightsOf(adapter: AdapterParams): string | null {
	const { unet_weight, text_encoder_weight, blocks, over_steps, rank_limit } = adapter;
	const differ = unet_weight !== text_encoder_weight;
	const words = dotted(
		differ && `UNet ${unet_weight.toFixed(2)}`,
		differ && `text encoder ${text_encoder_weight.toFixed(2)}`,
		over_steps &&
			over_steps.length > 0 &&
			`over the steps ${caption(inOrder(over_steps), unet_weight)}`,
		blocks && 'by block',
		rank_limit !== undefined && `rank ${rank_limit} at most`
	);
	return words || null;
}

/** What comes after ground and stack; what is as always is left out. */
export function rowsOf(image: GalleryImage, catalog: Catalog): [string, string][] {
	const { params } = image;
	const made: [string, string] = [
		'Made',
		dotted(when(image.created_at), image.seconds !== null && duration(image.seconds), image.device)
	];
	const size: [string, string] = ['Size', `${image.width} × ${image.height}`];
	if (!params) return [size, made];

	const rows: ([string, string] | false)[] = [
		params.negative_prompt !== '' && ['Negative', params.negative_prompt],
		[
			'Sampler',
			dotted(nameOf(catalog.samplers, params.sampler), nameOf(catalog.schedules, params.schedule))
		],
		['Steps, guidance', dotted(String(params.steps), params.guidance_scale.toFixed(1))],
		params.seed !== null && ['Seed', String(params.seed)],
		size,
		params.init !== null && [
			'Started from',
			dotted(params.init.image?.name, `denoising ${params.init.denoising_strength.toFixed(2)}`)
		],
		params.vae !== null && ['VAE', params.vae.name],
		params.prediction !== null && ['Prediction', params.prediction.replace('_', '-')],
		params.clip_skip > 1 && ['Clip skip', String(params.clip_skip)],
		params.refiner !== null && [
			'Refiner',
			dotted(params.refiner.name, `from ${Math.round(params.refiner.switch_at * 100)} %`)
		],
		params.sizes !== null && ['Told sizes', sizesOf(params.sizes)],
		made
	];
	return rows.filter((row) => row !== false);
}
