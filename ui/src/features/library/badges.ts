/** What a card says of itself in a few words each. */
import { bytes } from '$lib/format';
import type { ModelCard } from '$lib/ipc/types';

export function badgesOf(card: ModelCard): string[] {
	const badges =
		card.kind === 'adapter'
			? [card.algorithm, rankOf(card), card.family]
			: [card.family, ...card.summary.split(' · '), bytes(card.bytes)];
	return [...new Set(badges.filter((badge) => badge !== null && badge !== ''))] as string[];
}

function rankOf({ rank }: ModelCard): string | null {
	if (!rank) return null;
	const [least, most] = rank;
	return least === most ? `rank ${most}` : `rank ${least} to ${most}`;
}
