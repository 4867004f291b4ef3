/** Words in a prompt: where trigger words are, what a chip put in, emphasis, and tags of adapters. */
import { numberOf, readBlocks } from '$lib/blocks';

/** What a chip put into the prompt, exactly: only that does it take out again. */
export interface Put {
	word: string;
	text: string;
}

export interface Span {
	from: number;
	to: number;
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Where `word` stands in `text`, as a whole, whatever its case. */
export function occurrences(text: string, word: string): Span[] {
	if (!word.trim()) return [];
	const pattern = new RegExp(`(?<![\\p{L}\\p{N}])${escaped(word.trim())}(?![\\p{L}\\p{N}])`, 'giu');
	return [...text.matchAll(pattern)].map(({ index, 0: found }) => ({
		from: index,
		to: index + found.length
	}));
}

/** Puts a word at the end of the prompt. */
export function putIn(prompt: string, word: string): { prompt: string; put: Put } {
	const before = prompt.replace(/[\s,]+$/, '');
	const text = before ? `, ${word}` : word;
	return { prompt: before + text, put: { word, text } };
}

/** Takes out what a chip put in; if the person changed the words around it, only the word itself. */
export function takeOut(prompt: string, { word, text }: Put): string {
	const at = prompt.lastIndexOf(text);
	if (at >= 0) return tidied(prompt.slice(0, at) + prompt.slice(at + text.length));
	const place = occurrences(prompt, word).at(-1);
	if (!place) return prompt;
	const head = prompt.slice(0, place.from).replace(/,?\s*$/, '');
	return tidied(head + prompt.slice(place.to));
}

const tidied = (prompt: string) => prompt.replace(/^[\s,]+/, '');

/** An adapter that a pasted prompt names, as other programs write it: `<lora:name:0.8>`. */
export interface Tag {
	name: string;
	weight: number;
	textEncoderWeight: number;
	/** Of SDXL's second text encoder, where that is not the same. */
	textEncoder2Weight?: number;
	/** All 26 factors. */
	blocks?: number[];
	/** The first step in which it acts, from 1. */
	start?: number;
	/** The last step in which it acts. */
	stop?: number;
	rankLimit?: number;
}

const TAG = /<(?:lora|lyco):([^>]+)>/gi;

/**
 * Splits off the tags for which `known` has an adapter; others stay where they are. `odd`: what stands
 * in a tag and has no effect.
 */
export function splitTags(
	text: string,
	known: (name: string) => boolean
): { text: string; tags: Tag[]; odd: string[] } {
	const tags: Tag[] = [];
	const odd: string[] = [];
	const rest = text.replace(TAG, (whole, list: string) => {
		const found = readTag(list.split(':'));
		if (!found || !known(found.tag.name)) return whole;
		tags.push(found.tag);
		odd.push(...found.odd);
		return '';
	});
	if (tags.length === 0) return { text, tags, odd };
	return {
		text: rest
			.replace(/(\s*,){2,}/g, ',')
			.replace(/\s{2,}/g, ' ')
			.replace(/^[\s,]+/, ''),
		tags,
		odd
	};
}

/** What stands between the colons; `null`: no name, or a weight that is no number. */
function readTag(list: string[]): { tag: Tag; odd: string[] } | null {
	const named: NamedArguments = {};
	const odd: string[] = [];
	const inOrder = list.filter((argument) => {
		const [key, value, ...more] = argument.split('=');
		if (value === undefined || more.length > 0) return true;
		if (!takeNamed(named, key ?? '', value)) odd.push(argument.trim());
		return false;
	});
	const name = inOrder.shift();
	if (!name) return null;
	// With two numbers, other programs mean the text encoder first.
	const first = named.te ?? inOrder.shift();
	let second = inOrder.shift();
	if (second !== undefined && numberOf(second) === null) {
		const read = readBlocks(second);
		if ('problem' in read) odd.push(second.trim());
		else named.blocks ??= read.blocks;
		second = undefined;
	}
	const textEncoderWeight = first === undefined ? 1 : numberOf(first);
	const unet = named.unet ?? second;
	const weight = unet === undefined ? textEncoderWeight : numberOf(unet);
	const textEncoder2Weight = named.te2 === undefined ? undefined : numberOf(named.te2);
	if (weight === null || textEncoderWeight === null || textEncoder2Weight === null) return null;
	const { blocks, start, stop } = named;
	const rankLimit = named.rankLimit ?? (wholeOf(inOrder.shift() ?? '') || undefined);
	const more = { textEncoder2Weight, blocks, start, stop, rankLimit };
	const said = Object.entries(more).filter(([, value]) => value !== undefined);
	return { tag: { name, weight, textEncoderWeight, ...Object.fromEntries(said) }, odd };
}

type NamedArguments = Pick<Tag, 'blocks' | 'start' | 'stop' | 'rankLimit'> &
	Partial<Record<'te' | 'te2' | 'unet', string>>;

/** Takes an argument that has a name; whether it is understood. */
function takeNamed(named: NamedArguments, key: string, value: string): boolean {
	switch (key) {
		case 'te':
		case 'te1':
			named.te = value;
			return true;
		case 'te2':
		case 'unet':
			named[key] = value;
			return true;
		case 'lbw':
		case 'w': {
			const read = readBlocks(value);
			if ('problem' in read) return false;
			named.blocks = read.blocks;
			return true;
		}
		case 'start':
		case 'stop':
			return (named[key] = wholeOf(value)) !== undefined;
		case 'step': {
			const [from, to] = value.split(/-(.*)/s).map(wholeOf);
			if (from === undefined || to === undefined) return false;
			Object.assign(named, { start: from, stop: to });
			return true;
		}
		case 'dyn':
			// A limit of 0 would leave nothing.
			return (named.rankLimit = wholeOf(value) || undefined) !== undefined;
		default:
			return false;
	}
}

const wholeOf = (text: string) => (/^\s*\+?\d+\s*$/.test(text) ? Number(text) : undefined);

/**
 * Emphasis as other programs write it, `(words:1.1)`: changes it by a step around the selection, or
 * around the word at the cursor. Returns what to replace, and the selection afterwards.
 */
export function emphasize(
	text: string,
	selection: Span,
	by: number
): { from: number; to: number; insert: string; selection: Span } | null {
	const inner = selection.from === selection.to ? wordAt(text, selection.from) : selection;
	if (!inner) return null;
	const around = emphasisAround(text, inner);
	const words = around
		? text.slice(around.words.from, around.words.to)
		: text.slice(inner.from, inner.to);
	const weight = Math.round(((around?.weight ?? 1) + by) * 100) / 100;
	if (weight <= 0) return null;
	const plain = Math.abs(weight - 1) < 0.001;
	const insert = plain ? words : `(${words}:${String(weight)})`;
	const from = around?.from ?? inner.from;
	const start = from + (plain ? 0 : 1);
	return {
		from,
		to: around?.to ?? inner.to,
		insert,
		selection: { from: start, to: start + words.length }
	};
}

/** The word at a place: letters, digits and what holds a word together. */
function wordAt(text: string, at: number): Span | null {
	const part = /[\p{L}\p{N}'_-]/u;
	let from = at;
	let to = at;
	while (from > 0 && part.test(text[from - 1] ?? '')) from--;
	while (to < text.length && part.test(text[to] ?? '')) to++;
	return from === to ? null : { from, to };
}

/** The smallest `(…:1.1)` that holds the span. */
function emphasisAround(text: string, span: Span) {
	let best: { from: number; to: number; words: Span; weight: number } | null = null;
	for (const found of text.matchAll(/\(([^()]*):(\d+(?:\.\d+)?)\)/g)) {
		const from = found.index;
		const to = from + found[0].length;
		const words = { from: from + 1, to: from + 1 + (found[1] ?? '').length };
		if (from <= span.from && span.to <= to) best = { from, to, words, weight: Number(found[2]) };
	}
	return best;
}
