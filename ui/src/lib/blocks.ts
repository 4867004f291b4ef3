/**
 * Weights of single blocks: the list of 26 factors, the shorter lists that people share, and names of
 * lists, all as the extension sd-webui-lora-block-weight has them.
 */

export const FACTORS = 26;

const SIDE = 12;
const MIDDLE = 1 + SIDE;

/** The largest factor that a hand can draw. */
export const HIGHEST = 1.5;

/** Which places of the full list the shorter ones have; blocks that a list lacks get 0. */
const SHORT_LISTS: readonly (readonly number[])[] = [
	// SDXL, LoRA: IN04 05 07 08, OUT00 to 05
	[0, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19],
	// SD 1.x and 2.x, LoRA: IN01 02 04 05 07 08, OUT03 to 11
	[0, 2, 3, 5, 6, 8, 9, 13, 17, 18, 19, 20, 21, 22, 23, 24, 25],
	// SDXL, LoCon: IN00 to 08, OUT00 to 08
	[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
];

const seventeen = (bits: string) => [...bits].map(Number);

export const PRESETS: readonly { name: string; tip: string; list: readonly number[] }[] = [
	{ name: 'ALL', tip: 'all that a LoRA changes', list: seventeen('11111111111111111') },
	{ name: 'INS', tip: 'the way in, shallow', list: seventeen('11110000000000000') },
	{ name: 'IND', tip: 'the way in, deep', list: seventeen('10001110000000000') },
	{ name: 'INALL', tip: 'the way in', list: seventeen('11111110000000000') },
	{ name: 'MIDD', tip: 'the middle and around it', list: seventeen('10001111111100000') },
	{ name: 'OUTD', tip: 'the way out, deep', list: seventeen('10000000111100000') },
	{ name: 'OUTS', tip: 'the way out, shallow', list: seventeen('10000000000011111') },
	{ name: 'OUTALL', tip: 'the way out', list: seventeen('10000000111111111') },
	{ name: 'ALL0.5', tip: 'half of it', list: Array(17).fill(0.5) },
	{ name: 'NONE', tip: 'nothing', list: Array(17).fill(0) }
];

/** A list by its name, in any case. */
export function preset(name: string): number[] | null {
	const found = PRESETS.find((one) => one.name.toLowerCase() === name.trim().toLowerCase());
	return found ? fullList(found.list) : null;
}

/** All 26 factors of a list of 12, 17, 20 or 26; `null`: of another length. */
export function fullList(list: readonly number[]): number[] | null {
	if (list.length === FACTORS) return [...list];
	const places = SHORT_LISTS.find((short) => short.length === list.length);
	if (!places) return null;
	const all = Array<number>(FACTORS).fill(0);
	places.forEach((place, at) => (all[place] = list[at] ?? 0));
	return all;
}

/** A number as it stands in a list or a tag: "", "0x1" and "Infinity" are none. */
export function numberOf(text: string): number | null {
	return /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : null;
}

/** A preset's name, or a list of factors: what is written into a tag, or pasted. */
export function readBlocks(text: string): { blocks: number[] } | { problem: string } {
	const known = preset(text);
	if (known) return { blocks: known };
	const parts = text
		.trim()
		.replace(/^\[(.*)\]$/, '$1')
		.split(',');
	const list = parts.map(numberOf);
	const odd = parts[list.indexOf(null)]?.trim();
	if (odd !== undefined) {
		return {
			problem: odd
				? `“${odd}” is no number. Write numbers with commas between them.`
				: 'A number is missing. Write numbers with commas between them.'
		};
	}
	const blocks = fullList(list as number[]);
	if (blocks) return { blocks };
	const count = list.length === 1 ? 'It is one number' : `These are ${list.length} numbers`;
	return { problem: `${count}. A list has 12, 17, 20 or 26.` };
}

export const writeBlocks = (blocks: readonly number[]) => blocks.join(',');

export type Part = 'text' | 'in' | 'middle' | 'out' | 'other';

/** Where a block lies, by its place in the tables of 28: the 26 factors, what is in no block, and SDXL's second text encoder. */
export function partOf(index: number): Part {
	if (index === 0 || index === FACTORS + 1) return 'text';
	if (index === FACTORS) return 'other';
	if (index === MIDDLE) return 'middle';
	return index < MIDDLE ? 'in' : 'out';
}

/** Blocks that lie together, part after part. */
export function inParts<T>(blocks: readonly T[], part: (block: T) => string): [string, T[]][] {
	const parts = new Map<string, T[]>();
	for (const block of blocks) parts.set(part(block), [...(parts.get(part(block)) ?? []), block]);
	return [...parts];
}
