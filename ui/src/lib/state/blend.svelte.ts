/** The blend pad: two to four layers of the stack at its corners, and how much of each there is. */
import { FEWEST, middle, MOST, placeOf, shares, within, type Place } from '$lib/blend';
import type { Weights } from '$lib/strength';
import type { Generation, Layer } from './generation.svelte';

/** How a layer's other networks stand to its UNet. */
interface Ratios {
	text_encoder: number;
	text_encoder_2: number | undefined;
}

interface Blended {
	place: Place;
	amount: number;
	ratios: readonly Ratios[];
}

/** What the pad wrote last. */
interface Written extends Blended {
	weights: ReadonlyMap<number, Weights>;
}

/** As far as sliders and fields go. */
const LARGEST = 4;

export class Blend {
	#open = $state(false);
	/** Keys of the layers at the corners; `null`: the top ones. */
	#chosen = $state.raw<readonly number[] | null>(null);
	#written = $state.raw<Written | null>(null);
	#generation: Generation;

	/** The person has just opened it: the knob takes the focus. */
	fresh = false;

	readonly #layers = $derived.by(() =>
		this.#generation.layers.filter((layer) => layer.enabled && !this.#generation.staysOut(layer))
	);

	readonly #corners = $derived.by(() => {
		const chosen = this.#layers.filter(({ key }) => this.#chosen?.includes(key));
		return chosen.length < FEWEST ? this.#layers.slice(0, MOST) : chosen;
	});

	/**
	 * Read from the weights, unless they are still those that the pad wrote: these are rounded, and
	 * of zeros there is no way back.
	 */
	readonly #blended = $derived.by((): Blended => {
		const written = this.#written;
		const corners = this.#corners;
		if (
			written?.weights.size === corners.length &&
			corners.every((layer) => alike(layer, written.weights.get(layer.key)))
		) {
			return written;
		}
		const weights = corners.map((layer) => layer.unet_weight);
		const sum = weights.reduce((a, b) => a + b, 0);
		return { place: placeOf(weights), amount: sum > 0 ? sum : 1, ratios: corners.map(ratiosOf) };
	});

	constructor(generation: Generation) {
		this.#generation = generation;
	}

	get open() {
		return this.#open && this.reason === null;
	}

	/** Why it cannot be opened: a whole sentence; `null`: it can. */
	get reason(): string | null {
		return this.#layers.length < FEWEST
			? 'Blending takes two layers that are switched on and fit the ground.'
			: null;
	}

	/** Those that can be at a corner, the top one first. */
	get layers(): readonly Layer[] {
		return this.#layers;
	}

	get corners(): readonly Layer[] {
		return this.#corners;
	}

	/** Of the knob. */
	get place(): Place {
		return this.#blended.place;
	}

	/** What is shared out: the sum of the weights at the corners. */
	get amount() {
		return this.#blended.amount;
	}

	toggle(open = !this.open) {
		this.fresh = open;
		this.#open = open;
	}

	/** Puts a layer at a corner, or takes it off, as far as there are corners. */
	choose(key: number) {
		const keys = this.#corners.map((layer) => layer.key);
		const chosen = keys.includes(key) ? keys.filter((one) => one !== key) : [...keys, key];
		if (chosen.length >= FEWEST && chosen.length <= MOST) this.#chosen = chosen;
	}

	move(place: Place) {
		this.#write('place', within(place, this.#corners.length), this.amount);
	}

	setAmount(amount: number) {
		this.#write('amount', this.place, amount);
	}

	/** Equal shares of the same amount. */
	reset() {
		this.#write('reset', middle(this.#corners.length), this.amount);
	}

	#write(what: string, place: Place, amount: number) {
		const { ratios } = this.#blended;
		const parts = shares(place, this.#corners.length);
		const weights = new Map(
			this.#corners.map((layer, at) => [
				layer.key,
				weighed((parts[at] ?? 0) * amount, ratios[at] ?? EVEN)
			])
		);
		this.#written = { place, amount, ratios, weights };
		this.#generation.setWeights(`blend ${what}`, weights);
	}
}

const EVEN: Ratios = { text_encoder: 1, text_encoder_2: undefined };

/**
 * A layer whose networks have weights of their own keeps their ratio, so that the pad moves it as a
 * whole. Of a UNet at 0 there is no ratio: then they go together.
 */
function ratiosOf(layer: Weights): Ratios {
	const { unet_weight, text_encoder_weight, text_encoder_2_weight } = layer;
	const ratio = (weight: number) => (unet_weight === 0 ? 1 : weight / unet_weight);
	return {
		text_encoder: ratio(text_encoder_weight),
		text_encoder_2: text_encoder_2_weight === undefined ? undefined : ratio(text_encoder_2_weight)
	};
}

function weighed(weight: number, { text_encoder, text_encoder_2 }: Ratios): Weights {
	return {
		unet_weight: rounded(weight),
		text_encoder_weight: rounded(weight * text_encoder),
		...(text_encoder_2 !== undefined && { text_encoder_2_weight: rounded(weight * text_encoder_2) })
	};
}

/** In the digits and within the limits of the sliders. */
const rounded = (weight: number) =>
	Number(Math.min(Math.max(weight, -LARGEST), LARGEST).toFixed(2));

const alike = (layer: Weights, written: Weights | undefined) =>
	layer.unet_weight === written?.unet_weight &&
	layer.text_encoder_weight === written.text_encoder_weight &&
	layer.text_encoder_2_weight === written.text_encoder_2_weight;
