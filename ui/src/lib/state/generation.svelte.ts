/**
 * What the person is about to generate: the stack, the words and the numbers. Plain state; nothing
 * reaches Rust until the studio asks for `params`. Each verb is one entry of Undo, or a part of the
 * gesture under way.
 */
import { between } from '$lib/curve';
import type {
	AdapterParams,
	FileRef,
	GenerationParams,
	InitFit,
	InputPicture,
	KeyframeParams,
	ModelCard,
	NoiseParams,
	Precision,
	Prediction,
	RefinerParams,
	Rng,
	SizeParams
} from '$lib/ipc/types';
import type { Weights } from '$lib/strength';
import { occurrences, putIn, takeOut, type Put, type Tag } from '$lib/words';
import { History } from './history.svelte';

/** What an adapter does beyond its two weights. */
type Detail = Pick<AdapterParams, 'text_encoder_2_weight' | 'blocks' | 'over_steps' | 'rank_limit'>;

/** An adapter on the stack. */
export interface Layer extends FileRef, Detail {
	/** Tells layers apart in the window; means nothing elsewhere. */
	key: number;
	unet_weight: number;
	text_encoder_weight: number;
	enabled: boolean;
	/** Whether its card shows all that can be set. */
	open: boolean;
}

export interface Numbers {
	width: number;
	height: number;
	steps: number;
	guidance_scale: number;
	sampler: string;
	schedule: string;
	seed: number;
	clip_skip: number;
	rng: Rng;
	precision: Precision;
	vae: FileRef | null;
	prediction: Prediction | null;
	noise: NoiseParams | null;
	/** What SDXL is told of sizes, where that is not the picture’s own. */
	sizes: SizeParams | null;
	/** Another ground for the last steps. */
	refiner: RefinerParams | null;
	/** Pictures for one press of Generate. */
	count: number;
	seed_locked: boolean;
	aspect_locked: boolean;
}

export interface Init {
	image: FileRef | null;
	/** For its pixels; `null` when it is gone. */
	picture: InputPicture | null;
	denoising_strength: number;
	fit: InitFit;
	/** Where it is repainted; a recipe of the command line may have one. */
	mask: FileRef | null;
}

/** All that Undo goes back over, and what a session and a saved stack hold. */
export interface Document {
	ground: FileRef;
	/** Top layer first. */
	layers: Layer[];
	/** Key of the layer that is heard alone. */
	solo: number | null;
	prompt: string;
	negative_prompt: string;
	/** What chips put into the prompt. */
	put: Put[];
	numbers: Numbers;
	init: Init | null;
}

/** What is saved under a name: the stack with its weights and words. */
export type SavedStack = Pick<Document, 'ground' | 'layers' | 'prompt' | 'negative_prompt' | 'put'>;

/** Whose weight is set; `both`: everything's. */
export type Weighed = 'both' | 'unet' | 'text_encoder' | 'text_encoder_1';

export type Restored = 'all' | 'words' | 'seed' | 'stack';

const SIDE_STEP = 8;

export class Generation {
	#document = $state<Document>() as Document;
	#version: number;
	#moving = $state(false);

	readonly history: History<Document>;

	/** After each change, undo and redo included. */
	onchange: (() => void) | null = null;
	/** Whether a layer stays out of the picture: its file is gone, or it does not fit the ground. */
	staysOut: (layer: Layer) => boolean = () => false;

	constructor(defaults: GenerationParams) {
		this.#version = defaults.version;
		this.#document = {
			...read(defaults, []),
			numbers: { ...numbersOf(defaults), count: 1, seed_locked: false, aspect_locked: false },
			init: null
		};
		this.history = new History(
			() => this.save(),
			(document) => this.#replace(document)
		);
	}

	get ground() {
		return this.#document.ground;
	}

	get layers(): readonly Layer[] {
		return this.#document.layers;
	}

	get solo() {
		return this.#document.solo;
	}

	get prompt() {
		return this.#document.prompt;
	}

	get negativePrompt() {
		return this.#document.negative_prompt;
	}

	get numbers(): Readonly<Numbers> {
		return this.#document.numbers;
	}

	get init(): Readonly<Init> | null {
		return this.#document.init;
	}

	/** A gesture is under way: the hand is on a slider. */
	get moving() {
		return this.#moving;
	}

	/** Whether a layer has a part in the picture. */
	sounds(layer: Layer) {
		const { solo } = this.#document;
		return layer.enabled && (solo === null || solo === layer.key) && !this.staysOut(layer);
	}

	/** As Rust takes it, and as it is written into the picture. */
	params(): GenerationParams {
		const { ground, layers, prompt, negative_prompt, numbers, init } = this.save();
		const { count: _, seed_locked: __, aspect_locked: ___, ...chosen } = numbers;
		return {
			version: this.#version,
			model: ground,
			adapters: layers.map((layer) => {
				const { key: _key, open: _open, ...adapter } = layer;
				return { ...adapter, enabled: this.sounds(layer) };
			}),
			// Rust finds those that the words call.
			embeddings: [],
			prompt,
			negative_prompt,
			...chosen,
			init: init && {
				image: init.image,
				denoising_strength: init.denoising_strength,
				fit: init.fit,
				mask: init.mask
			}
		};
	}

	// ---- gestures

	begin() {
		this.history.begin();
		this.#moving = true;
	}

	end() {
		this.history.end();
		this.#moving = false;
	}

	// ---- stack

	setGround(card: ModelCard) {
		this.#change('ground', (document) => (document.ground = reference(card)));
	}

	/** Onto the top of the stack, unless it lies there already. */
	addLayer(card: ModelCard, weights?: Tag) {
		const known = this.layers.find((layer) => same(layer, card));
		this.#change('add', ({ layers }) => {
			if (known && weights) {
				known.unet_weight = weights.weight;
				known.text_encoder_weight = weights.textEncoderWeight;
				Object.assign(known, this.#detail(weights));
			} else if (known) {
				known.enabled = true;
			} else {
				layers.unshift(this.#laid(card, weights));
			}
		});
	}

	/** Several at once are one entry of Undo: files dropped together, tags pasted together. */
	together(change: () => void) {
		this.history.begin();
		change();
		this.history.end();
	}

	has(card: ModelCard) {
		return this.layers.some((layer) => same(layer, card));
	}

	/** Off the stack, with the words that its chips put into the prompt. */
	removeLayer(key: number, words: readonly string[]) {
		this.#change('remove', (document) => {
			for (const put of document.put.filter(({ word }) => words.includes(word))) {
				document.prompt = takeOut(document.prompt, put);
			}
			document.put = document.put.filter(({ word }) => !words.includes(word));
			document.layers = document.layers.filter((layer) => layer.key !== key);
			if (document.solo === key) document.solo = null;
		});
	}

	/** Of SDXL's two text encoders, the second keeps its weight where only the first is meant. */
	setWeight(key: number, which: Weighed, weight: number) {
		this.#onLayer(`weight ${key} ${which}`, key, (layer) => {
			if (which === 'both') delete layer.text_encoder_2_weight;
			if (which === 'text_encoder_1') layer.text_encoder_2_weight ??= layer.text_encoder_weight;
			if (which === 'both' || which === 'unet') layer.unet_weight = weight;
			if (which !== 'unet') layer.text_encoder_weight = weight;
			joinTextEncoders(layer);
		});
	}

	setTextEncoder2Weight(key: number, weight: number) {
		this.#onLayer(`weight ${key} text_encoder_2`, key, (layer) => {
			layer.text_encoder_2_weight = weight;
			joinTextEncoders(layer);
		});
	}

	/** All 26 factors; 1 everywhere is what a layer begins with. */
	setBlocks(key: number, blocks: readonly number[] | null) {
		this.#onLayer(`blocks ${key}`, key, (layer) => {
			if (blocks?.some((factor) => factor !== 1)) layer.blocks = [...blocks];
			else delete layer.blocks;
		});
	}

	/** What the UNet's weight is multiplied by, step by step; no keyframes: 1 throughout. */
	setOverSteps(key: number, keyframes: readonly KeyframeParams[]) {
		this.#onLayer(`over steps ${key}`, key, (layer) => {
			if (keyframes.length > 0) layer.over_steps = [...keyframes];
			else delete layer.over_steps;
		});
	}

	/** A tag or a recipe may have used fewer. */
	useAllRanks(key: number) {
		this.#onLayer(`ranks ${key}`, key, (layer) => delete layer.rank_limit);
	}

	/** Weights of several layers at once, by their keys. */
	setWeights(kind: string, weights: ReadonlyMap<number, Weights>) {
		this.#change(kind, ({ layers }) => {
			for (const layer of layers) Object.assign(layer, weights.get(layer.key));
		});
	}

	setEnabled(key: number, enabled: boolean) {
		this.#onLayer(`enabled ${key}`, key, (layer) => (layer.enabled = enabled));
	}

	setSolo(key: number | null) {
		this.#change('solo', (document) => (document.solo = key));
	}

	/** Unfolds its card: what is set there holds either way. */
	setOpen(key: number, open: boolean) {
		const layer = this.#document.layers.find((one) => one.key === key);
		if (!layer) return;
		layer.open = open;
		this.onchange?.();
	}

	/** The order is for the eye: it changes nothing in the picture. */
	reorder(keys: number[]) {
		if (this.layers.every((layer, at) => layer.key === keys[at])) return;
		const order = (layer: Layer) => keys.indexOf(layer.key);
		this.#change('reorder', ({ layers }) => layers.sort((a, b) => order(a) - order(b)));
	}

	moveLayer(key: number, by: -1 | 1) {
		const keys = this.layers.map((layer) => layer.key);
		const from = keys.indexOf(key);
		const to = from + by;
		if (from < 0 || to < 0 || to >= keys.length) return;
		keys.splice(to, 0, ...keys.splice(from, 1));
		this.reorder(keys);
	}

	// ---- words

	setPrompt(prompt: string) {
		this.#change('prompt', (document) => (document.prompt = prompt));
	}

	setNegativePrompt(prompt: string) {
		this.#change('negative', (document) => (document.negative_prompt = prompt));
	}

	/** Whether a chip's word stands in the prompt, and whether the chip put it there. */
	wordState(word: string): 'absent' | 'put' | 'written' {
		if (occurrences(this.prompt, word).length === 0) return 'absent';
		return this.#document.put.some((put) => put.word === word) ? 'put' : 'written';
	}

	/** A chip puts its word in, and takes out only what it put in. */
	toggleWord(word: string) {
		const state = this.wordState(word);
		if (state === 'written') return;
		this.#change(`word ${word}`, (document) => {
			const put = document.put.find((one) => one.word === word);
			document.put = document.put.filter((one) => one.word !== word);
			if (state === 'put' && put) {
				document.prompt = takeOut(document.prompt, put);
			} else {
				const done = putIn(document.prompt, word);
				document.prompt = done.prompt;
				document.put.push(done.put);
			}
		});
	}

	// ---- numbers

	set(patch: Partial<Numbers>) {
		this.#change(`numbers ${Object.keys(patch)}`, ({ numbers }) => Object.assign(numbers, patch));
	}

	/** A side in pixels; with the aspect locked the other follows. */
	setSide(side: 'width' | 'height', pixels: number, max: number) {
		const { width, height, aspect_locked } = this.numbers;
		const next = fitSide(pixels, max);
		const other = side === 'width' ? 'height' : 'width';
		const aspect = side === 'width' ? height / width : width / height;
		this.set({ [side]: next, ...(aspect_locked && { [other]: fitSide(next * aspect, max) }) });
	}

	/** A seed that was drawn for Generate: shown, and no entry of Undo. */
	drawn(seed: number) {
		this.#document.numbers.seed = seed;
		this.onchange?.();
	}

	// ---- the picture to start from

	startFrom(picture: InputPicture) {
		this.#change('init', (document) => {
			document.init = {
				image: picture.file,
				picture,
				denoising_strength: document.init?.denoising_strength ?? 0.6,
				fit: document.init?.fit ?? 'crop',
				mask: null
			};
		});
	}

	setInit(patch: Partial<Pick<Init, 'denoising_strength' | 'fit'>>) {
		this.#change(`init ${Object.keys(patch)}`, ({ init }) => init && Object.assign(init, patch));
	}

	removeInit() {
		this.#change('init', (document) => (document.init = null));
	}

	// ---- whole documents

	/** Puts a recipe back, or a part of it. `picture`: the one that it starts from, if that is still there. */
	restore(params: GenerationParams, what: Restored, picture: InputPicture | null = null) {
		this.#change('restore', (document) => {
			const { ground, layers, prompt, negative_prompt } = read(params, document.layers);
			if (what === 'all' || what === 'stack')
				Object.assign(document, { ground, layers, solo: null });
			if (what === 'all' || what === 'words') {
				Object.assign(document, { prompt, negative_prompt, put: [] });
			}
			if (what === 'all') {
				Object.assign(document.numbers, numbersOf(params));
				document.init = params.init && { ...params.init, picture };
			}
			// Without the lock the next Generate would draw another seed, and the recipe not come back.
			if (what === 'all' || what === 'seed') {
				document.numbers.seed = params.seed ?? document.numbers.seed;
				document.numbers.seed_locked = true;
			}
		});
	}

	saveStack(): SavedStack {
		const { ground, layers, prompt, negative_prompt, put } = this.save();
		return { ground, layers, prompt, negative_prompt, put };
	}

	loadStack(saved: SavedStack) {
		this.#change('stack', (document) => {
			const layers = saved.layers.map((layer) => ({ ...layer, key: nextKey() }));
			Object.assign(document, structuredClone({ ...saved, layers, solo: null }));
		});
	}

	save(): Document {
		return $state.snapshot(this.#document) as Document;
	}

	/** What a session held; what it lacks stays as it is. */
	load(saved: Partial<Document>) {
		const now = this.save();
		const layers = (saved.layers ?? now.layers).map((layer) => ({ ...layer, key: nextKey() }));
		const solo = saved.layers?.findIndex((layer) => layer.key === saved.solo) ?? -1;
		this.#document = {
			...now,
			...saved,
			layers,
			solo: layers[solo]?.key ?? null,
			numbers: { ...now.numbers, ...saved.numbers }
		};
	}

	/** Lays layers on the stack without an entry of Undo: the first start. */
	beginWith(layers: { card: ModelCard; weight: number }[]) {
		this.#document.layers = layers.map(({ card, weight }) =>
			this.#laid(card, { weight, textEncoderWeight: weight })
		);
		this.onchange?.();
	}

	#laid(card: ModelCard, weights?: Omit<Tag, 'name'>): Layer {
		const layer = {
			...reference(card),
			key: nextKey(),
			unet_weight: weights?.weight ?? card.default_weight,
			text_encoder_weight: weights?.textEncoderWeight ?? card.default_weight,
			...(weights && this.#detail(weights)),
			enabled: true
		};
		return { ...layer, open: !weighedAlike(layer) };
	}

	/** What a tag says, and that it says nothing of the rest. */
	#detail(tag: Omit<Tag, 'name'>): Detail {
		const { textEncoder2Weight, blocks, start, stop, rankLimit } = tag;
		const whole = start === undefined && stop === undefined;
		return {
			text_encoder_2_weight: textEncoder2Weight,
			blocks,
			over_steps: whole ? undefined : between(start, stop, this.numbers.steps),
			rank_limit: rankLimit
		};
	}

	#onLayer(kind: string, key: number, change: (layer: Layer) => void) {
		this.#change(kind, ({ layers }) => {
			const layer = layers.find((one) => one.key === key);
			if (layer) change(layer);
		});
	}

	#change(kind: string, change: (document: Document) => unknown) {
		this.history.record(kind, () => change(this.#document));
		this.onchange?.();
	}

	#replace(document: Document) {
		this.#document = document;
		this.onchange?.();
	}
}

let lastKey = 0;
const nextKey = () => ++lastKey;

/** What is the same for both is said once. */
function joinTextEncoders(layer: Layer) {
	if (layer.text_encoder_2_weight === layer.text_encoder_weight) delete layer.text_encoder_2_weight;
}

/** Whether one weight says it all: for the UNet and each text encoder the same. */
export const weighedAlike = ({ unet_weight, ...layer }: Omit<AdapterParams, 'enabled'>) =>
	unet_weight === layer.text_encoder_weight &&
	unet_weight === (layer.text_encoder_2_weight ?? unet_weight);

const fitSide = (pixels: number, max: number) =>
	Math.min(Math.max(Math.round(pixels / SIDE_STEP) * SIDE_STEP, 64), max);

const reference = ({ name, sha256 }: ModelCard): FileRef => ({ name, ...(sha256 && { sha256 }) });

/** The same file: by its hash where both know it, else by its name. */
function same(layer: Layer, card: ModelCard) {
	return layer.sha256 && card.sha256 ? layer.sha256 === card.sha256 : layer.name === card.name;
}

/** The stack and the words of a recipe. */
function read(params: GenerationParams, open: readonly Layer[]) {
	return {
		ground: params.model,
		layers: params.adapters.map((adapter) => ({
			...adapter,
			key: nextKey(),
			open:
				!weighedAlike(adapter) || open.some((layer) => layer.name === adapter.name && layer.open)
		})),
		solo: null,
		prompt: params.prompt,
		negative_prompt: params.negative_prompt,
		put: []
	};
}

function numbersOf(params: GenerationParams) {
	const { width, height, steps, guidance_scale, sampler, schedule } = params;
	const { clip_skip, rng, precision, vae, prediction, noise, sizes, refiner } = params;
	const seed = params.seed ?? 0;
	const size = { width, height };
	return {
		...size,
		steps,
		guidance_scale,
		sampler,
		schedule,
		seed,
		clip_skip,
		rng,
		precision,
		vae,
		prediction,
		noise,
		sizes,
		refiner
	};
}
