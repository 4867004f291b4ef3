/** Putting a model to use: what the one button does, by kind. */
import type { ModelCard } from '$lib/ipc/types';
import type { Studio } from '$lib/state/studio.svelte';

/** Whether the recipe that is being made has this model in it. */
export function inUse({ generation, groundCard }: Studio, card: ModelCard): boolean {
	switch (card.kind) {
		case 'adapter':
			return generation.has(card);
		case 'checkpoint':
			return groundCard?.id === card.id;
		case 'vae':
			return generation.numbers.vae?.name === card.name;
		case 'embedding':
			return generation.wordState(card.name) !== 'absent';
		default:
			return false;
	}
}

/**
 * Adapters go onto the stack, a base model becomes the ground, an embedding's name goes into the words; what
 * cannot be used is left alone.
 */
export function use(studio: Studio, card: ModelCard) {
	const { generation } = studio;
	if (!card.usable) return;
	if (card.kind === 'adapter') generation.addLayer(card);
	else if (card.kind === 'checkpoint') studio.layGround(card);
	else if (card.kind === 'embedding') {
		if (generation.wordState(card.name) === 'absent') generation.toggleWord(card.name);
	} else if (card.kind === 'vae') {
		const { name, sha256 } = card;
		generation.set({ vae: { name, ...(sha256 && { sha256 }) } });
	}
}
