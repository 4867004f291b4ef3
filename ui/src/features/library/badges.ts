/** What a card says of itself in a few words each. */
import { bytes } from '$lib/format';
import type { ModelCard } from '$lib/ipc/types';

export function badgesOf(card: ModelCard): string[] {
	const { family, summary, precision } = card;
	const own = card.kind === 'adapter' ? [card.algorithm, rankOf(card), family] : [family, summary];
	const parts = [...own, precision, bytes(card.bytes)].flatMap((part) => part?.split(' · ') ?? []);
	return [...new Set(parts.filter((part) => part !== ''))];
}

function rankOf({ rank }: ModelCard): string | null {
	if (!rank) return null;
	const [least, most] = rank;
	return least === most ? `rank ${most}` : `rank ${least} to ${most}`;
}
