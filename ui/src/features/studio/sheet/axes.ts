/** What can be an axis of a sheet, and values to begin with. */
import type { AxisTarget, AxisWish, WeightPart } from '$lib/ipc/types';
import type { Layer } from '$lib/state/generation.svelte';
import type { Studio } from '$lib/state/studio.svelte';

/** An axis as the dialog holds it: `of` is a layer's key or the kind of a parameter. */
export interface Draft {
	of: string;
	part: WeightPart;
	values: string;
}

export interface AxisChoice {
	value: string;
	label: string;
	hint?: string;
}

export const PARTS: { value: WeightPart; label: string }[] = [
	{ value: 'both', label: 'UNet and text encoder' },
	{ value: 'unet', label: 'UNet alone' },
	{ value: 'text_encoder', label: 'Text encoder alone' }
];

const PARAMETERS: { value: Exclude<AxisTarget['kind'], 'weight'>; label: string; hint?: string }[] =
	[
		{ value: 'steps', label: 'Steps' },
		{ value: 'guidance', label: 'Guidance' },
		{ value: 'seed', label: 'Seed' },
		{ value: 'sampler', label: 'Sampler' },
		{ value: 'schedule', label: 'Schedule' },
		{ value: 'clip_skip', label: 'Clip skip' },
		{ value: 'denoising', label: 'Denoising strength' },
		{ value: 'model', label: 'Ground', hint: 'Base models by their names' },
		{ value: 'words', label: 'Words', hint: 'The first is sought, each takes its place' }
	];

const layerOf = (studio: Studio, of: string): Layer | undefined =>
	studio.generation.layers.find((layer) => String(layer.key) === of);

export function layerChoices(studio: Studio): AxisChoice[] {
	return studio.generation.layers
		.filter((layer) => studio.reasonOut(layer) === null)
		.map((layer) => ({
			value: String(layer.key),
			label: studio.cardOf(layer)?.title ?? layer.name
		}));
}

export function choices(studio: Studio): AxisChoice[] {
	const { init } = studio.generation;
	const parameters = PARAMETERS.filter(({ value }) => value !== 'denoising' || init !== null);
	return [...layerChoices(studio), ...parameters];
}

export const isWeight = (studio: Studio, of: string) => layerOf(studio, of) !== undefined;

/** Values that show something, near what is set. */
export function suggested(studio: Studio, of: string): string {
	if (isWeight(studio, of)) return '0-1 [5]';
	const { numbers, prompt, ground } = studio.generation;
	const { samplers, schedules } = studio.catalog;
	const few = (list: readonly { id: string; name: string }[], now: string) =>
		[...list.filter(({ id }) => id === now), ...list.filter(({ id }) => id !== now)]
			.slice(0, 3)
			.map(({ name }) => name)
			.join(', ');
	switch (of) {
		case 'steps':
			return [numbers.steps / 2, numbers.steps, numbers.steps * 2]
				.map((steps) => Math.max(1, Math.round(steps)))
				.join(', ');
		case 'guidance':
			return '2-8 [4]';
		case 'seed':
			return `${numbers.seed}-${numbers.seed + 3}`;
		case 'sampler':
			return few(samplers, numbers.sampler);
		case 'schedule':
			return few(schedules, numbers.schedule);
		case 'clip_skip':
			return '1, 2';
		case 'denoising':
			return '0.2-0.8 [4]';
		case 'model':
			return grounds(studio, ground.name).map(quoted).join(', ');
		default:
			return quoted(/\p{L}{3,}/u.exec(prompt)?.[0] ?? '');
	}
}

/** This ground, and others of its family. */
function grounds(studio: Studio, now: string): string[] {
	const family = studio.groundCard?.family;
	const others = studio.library.cards.filter(
		(card) => card.kind === 'checkpoint' && card.usable && card.family === family
	);
	return [now, ...others.map((card) => card.name).filter((name) => name !== now)].slice(0, 3);
}

/** A comma would end a word that is not quoted. */
const quoted = (word: string) => (/[",]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word);

/** As Rust reads it. */
export function wish(studio: Studio, { of, part, values }: Draft): AxisWish {
	const layer = layerOf(studio, of);
	if (!layer) return { target: { kind: of } as AxisTarget, title: null, values };
	const { name, sha256, data_sha256 } = layer;
	const file = { name, ...(sha256 && { sha256 }), ...(data_sha256 && { data_sha256 }) };
	const title = studio.cardOf(layer)?.title ?? null;
	return { target: { kind: 'weight', file, part }, title, values };
}
