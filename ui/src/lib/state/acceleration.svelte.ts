/**
 * Adapters that let a ground need few steps: what each wants while it sounds, and the numbers from
 * before, to take back when it goes.
 */
import type { Suggestion } from '$lib/ipc/types';
import type { Generation, Layer } from './generation.svelte';

/** The numbers that such an adapter cares for. */
export type Few = Omit<Suggestion, 'name'>;

interface Memory {
	wanted: Few;
	before: Few;
	/** Once each time that it goes. */
	offered: boolean;
}

/** Makers name one number of steps; a few less, or up to twice as many, are as good. */
const FEWEST = 2 / 3;
const MOST = 2;
const GUIDANCE = 0.5;

export class Acceleration {
	#generation: Generation;
	#suggestionOf: (layer: Layer) => Suggestion | null;
	/** By name: a stack that is put back has other keys. */
	#taken = new Map<string, Memory>();

	/** An adapter whose numbers were taken is gone or muted: `back` sets those from before. */
	onleave: ((before: Few, back: () => void) => void) | null = null;

	constructor(generation: Generation, suggestionOf: (layer: Layer) => Suggestion | null) {
		this.#generation = generation;
		this.#suggestionOf = suggestionOf;
	}

	/** What a layer wants, where it sounds and other numbers are set; `null`: nothing. */
	wish(layer: Layer): Suggestion | null {
		const wanted = this.#suggestionOf(layer);
		if (!wanted || !this.#generation.sounds(layer)) return null;
		return suits(this.#generation.numbers, wanted) ? null : wanted;
	}

	/** Sets what the layer wants, and remembers what was set. */
	take(layer: Layer) {
		const wanted = this.#suggestionOf(layer);
		if (!wanted) return;
		const before = few(this.#generation.numbers);
		this.#taken.set(layer.name, { wanted: few(wanted), before, offered: false });
		this.#generation.set(few(wanted));
	}

	/** After each change of the document. */
	follow() {
		const { layers, numbers } = this.#generation;
		for (const [name, memory] of this.#taken) {
			if (layers.some((layer) => layer.name === name && layer.enabled)) {
				memory.offered = false;
			} else if (!memory.offered) {
				memory.offered = true;
				// Whoever set other numbers since then, or went back by Undo, needs no offer.
				if (!suits(numbers, memory.wanted) || suits(memory.before, memory.wanted)) continue;
				this.onleave?.(memory.before, () => this.#generation.set(memory.before));
			}
		}
	}
}

function suits(numbers: Few, wanted: Few): boolean {
	return (
		numbers.steps >= Math.round(wanted.steps * FEWEST) &&
		numbers.steps <= wanted.steps * MOST &&
		Math.abs(numbers.guidance_scale - wanted.guidance_scale) <= GUIDANCE &&
		numbers.sampler === wanted.sampler &&
		numbers.schedule === wanted.schedule
	);
}

const few = ({ steps, guidance_scale, sampler, schedule }: Few): Few => ({
	steps,
	guidance_scale,
	sampler,
	schedule
});
