/**
 * The window's state as a whole: subscribes once, hands events to the classes, and joins what
 * concerns several of them.
 */
import { dotted, fewNumbers, nameOf } from '$lib/format';
import { ipc, IpcError } from '$lib/ipc/client';
import type {
	Catalog,
	Dropped,
	Event,
	Failure,
	GalleryImage,
	GenerationParams,
	ModelCard,
	NamedStack,
	RecipeOffer,
	Snapshot
} from '$lib/ipc/types';
import { weighs } from '$lib/strength';
import { createContext } from 'svelte';
import { Acceleration } from './acceleration.svelte';
import { Blend } from './blend.svelte';
import { Deletion } from './deletion.svelte';
import { Drop } from './drop.svelte';
import { Easel } from './easel.svelte';
import { Fits } from './fits.svelte';
import { Gallery } from './gallery.svelte';
import { Generation, type Layer, type Restored, type SavedStack } from './generation.svelte';
import { Library } from './library.svelte';
import { Live } from './live.svelte';
import { Queue } from './queue.svelte';
import { Recents } from './recents.svelte';
import { readSession, Session, type SavedSession } from './session';
import { SettingsState } from './settings.svelte';
import { Strengths } from './strengths.svelte';
import { Sheets } from './sheets.svelte';
import { Toasts } from './toasts.svelte';
import { Tokens } from './tokens.svelte';
import { View } from './view.svelte';

/** Seeds go up to what JavaScript can hold exactly, but short ones are easier to tell to somebody. */
const LARGEST_DRAWN_SEED = 2 ** 32;

/** What lies on the ground at the first start: two of the starter's styles that go well together. */
const FIRST_LAYERS = [
	{ name: 'neon', weight: 0.8 },
	{ name: 'ink', weight: 0.4 }
];

export const [getStudio, setStudio] = createContext<Studio>();

function differs<T extends object>(from: T, wanted: Partial<T>): boolean {
	return Object.entries(wanted).some(([key, value]) => from[key as keyof T] !== value);
}

export class Studio {
	readonly catalog: Catalog;
	readonly defaults: GenerationParams;
	readonly device: string;
	readonly outputFolder: string;
	readonly dataFolder: string;

	readonly generation: Generation;
	readonly acceleration: Acceleration;
	readonly settings: SettingsState;
	readonly library = new Library();
	readonly gallery = new Gallery();
	readonly queue = new Queue();
	readonly recents = new Recents();
	readonly toasts = new Toasts();
	readonly view = new View();
	readonly fits = new Fits();
	readonly strengths = new Strengths();
	readonly tokens = new Tokens();
	readonly negativeTokens = new Tokens();
	readonly live: Live;
	readonly easel: Easel;
	readonly blend: Blend;
	readonly sheets: Sheets;
	readonly drop: Drop;
	readonly deletion: Deletion;

	#session: Session;
	#stacks = $state.raw<readonly NamedStack[]>([]);
	#firstStart = $state(false);
	#failure = $state.raw<Failure | null>(null);
	/** Until something is touched, a library that is found late still lays the starter's styles. */
	#untouched = false;

	/** Connects to Rust: everything that a window needs, then the stream of what happens. */
	static async open(): Promise<Studio> {
		const early: Event[] = [];
		// eslint-disable-next-line prefer-const -- the listener looks at it before it is there
		let studio: Studio | undefined;
		const first = new Promise<Snapshot>((resolve, reject) => {
			ipc
				.subscribe((event) => {
					if (studio) studio.#handle(event);
					else if (event.event === 'snapshot') resolve(event.data);
					else early.push(event);
				})
				.catch(reject);
		});
		const [snapshot, catalog] = await Promise.all([first, ipc.catalog()]);
		studio = new Studio(snapshot, catalog);
		for (const event of early) studio.#handle(event);
		await studio.#begin(snapshot);
		return studio;
	}

	private constructor(snapshot: Snapshot, catalog: Catalog) {
		this.catalog = catalog;
		this.defaults = snapshot.defaults;
		this.device = snapshot.device;
		this.outputFolder = snapshot.output_folder;
		this.dataFolder = snapshot.data_folder;
		this.settings = new SettingsState(snapshot.settings);
		this.generation = new Generation(snapshot.defaults);
		this.acceleration = new Acceleration(
			this.generation,
			(layer) => this.cardOf(layer)?.acceleration ?? null
		);
		this.live = new Live(
			() => this.generation.params(),
			(error) => this.toasts.fail(error)
		);
		this.easel = new Easel(this.queue, this.live);
		this.blend = new Blend(this.generation);
		this.sheets = new Sheets((error) => this.toasts.fail(error));
		this.drop = new Drop(
			() => this.groundCard?.id ?? null,
			(dropped) => this.#receive(dropped),
			(error) => this.toasts.fail(error)
		);
		this.deletion = new Deletion(this.toasts, () => this.settings.current.confirm_delete);
		this.#session = new Session(
			() => this.#save(),
			(error) => this.toasts.fail(error)
		);
		this.#handle({ event: 'snapshot', data: snapshot });

		this.generation.staysOut = (layer) => this.reasonOut(layer) !== null;
		this.generation.onchange = () => {
			this.#untouched = false;
			this.#failure = null;
			this.#session.touch();
			this.live.touch();
			this.acceleration.follow();
			this.#askFits();
			this.#askTokens();
		};
		this.acceleration.onleave = (before, run) =>
			this.toasts.show({
				message: 'Your numbers from before are kept.',
				hint: fewNumbers(before, this.catalog),
				action: { label: 'Take them back', run }
			});
		this.view.onchange = this.easel.onchange = () => this.#session.touch();
		this.sheets.onchange = () => this.#session.touch();
		this.easel.onpick = () => this.sheets.close();
		// How close one looks at a picture suits no grid, nor the other way round.
		this.sheets.onturn = () => this.easel.setZoom(null);
		this.gallery.onchange = this.library.shelf.onchange = () => this.#session.touch();
		this.library.onchange = () => {
			if (this.#untouched) this.#layStarter();
			this.#askFits(true);
			this.#askTokens();
		};
		this.library.onconverted = (made) => {
			void this.library
				.refresh()
				.then(() => {
					const card = this.library.byId(made);
					if (card) this.toasts.show({ message: `“${card.name}” is in the library.` });
				})
				.catch((error) => this.toasts.fail(error));
		};
		this.deletion.ondelete = (ids) => {
			const rest = this.recents.images.filter((image) => !ids.includes(image.id));
			const at = this.recents.images.findIndex((image) => ids.includes(image.id));
			this.easel.forget(ids, rest[at] ?? rest.at(-1) ?? null);
		};
	}

	/** Cards of the ground and of layers; `undefined`: the file is gone. */
	get groundCard(): ModelCard | undefined {
		return this.library.find(this.generation.ground, 'checkpoint');
	}

	/** Lays a ground, and offers the numbers that it was made for where others are set. */
	layGround(card: ModelCard) {
		this.generation.setGround(card);
		const { defaults } = card;
		if (!defaults) return;
		const { width, height, steps, guidance_scale, sampler, schedule } = defaults;
		const [now, size] = [this.generation.numbers, { width, height }];
		// Any shape of the right area is one that it was made for.
		const fits = Math.abs(Math.log((now.width * now.height) / (width * height))) < 0.3;
		const few = { steps, guidance_scale, sampler, schedule };
		const wanted = {
			...(!fits && size),
			...(card.acceleration && differs(now, few) && few)
		};
		if (Object.keys(wanted).length === 0) return;
		const { samplers, schedules } = this.catalog;
		this.toasts.show({
			message: `${card.title} was made for other numbers.`,
			hint: dotted(
				!fits && `${width} × ${height}`,
				'steps' in wanted && `${steps} steps, guidance ${guidance_scale.toFixed(1)}`,
				'steps' in wanted && `${nameOf(samplers, sampler)}, ${nameOf(schedules, schedule)}`
			),
			action: { label: 'Use them', run: () => this.generation.set(wanted) }
		});
	}

	cardOf(layer: Layer): ModelCard | undefined {
		return this.library.find(layer, 'adapter');
	}

	/** Why a layer stays out of the picture: whole sentences; `null`: it does not. */
	reasonOut(layer: Layer): string | null {
		const card = this.cardOf(layer);
		if (!card) {
			return this.library.scanning
				? null
				: 'Its file is gone. Put it back into a folder of the library, or take the layer off the stack.';
		}
		const ground = this.groundCard;
		if (ground?.family && card.family && card.family !== ground.family) {
			return `Made for ${card.family}. The ground is ${ground.family}, so it stays out of the picture.`;
		}
		if (!card.usable) return card.notes[0] ?? 'This program cannot use it yet.';
		return this.fits.of(card.id)?.refusal ?? null;
	}

	/** Saved under a name. */
	get stacks(): readonly NamedStack[] {
		return this.#stacks;
	}

	/** Generate pulses once. */
	get firstStart() {
		return this.#firstStart;
	}

	/** One job for each picture; while one runs, they wait. */
	async generate() {
		const { generation, live } = this;
		this.#firstStart = false;
		if (!live.on && !generation.numbers.seed_locked) generation.drawn(this.randomSeed());
		this.easel.follow();
		try {
			await ipc.enqueue(generation.params(), generation.numbers.count);
		} catch (error) {
			if (error instanceof IpcError && error.failure.field) this.#failure = error.failure;
			else this.toasts.fail(error);
		}
	}

	/** What is wrong with one of the fields, since the last Generate. */
	get failure(): Failure | null {
		return this.#failure;
	}

	randomSeed() {
		return Math.floor(Math.random() * LARGEST_DRAWN_SEED);
	}

	show(image: GalleryImage) {
		this.easel.show(image);
		this.view.go('studio');
	}

	/** Puts a recipe, or a part of it, back into the studio. */
	async restore(params: GenerationParams, what: Restored) {
		const hash = what === 'all' ? params.init?.image?.sha256 : undefined;
		try {
			const picture = hash ? await ipc.inputPicture(hash) : null;
			this.generation.restore(params, what, picture);
			this.view.go('studio');
		} catch (error) {
			this.toasts.fail(error);
		}
	}

	async offerRecipe({ params, warnings }: RecipeOffer) {
		await this.restore(params, 'all');
		for (const message of warnings) this.toasts.show({ message });
	}

	/** Takes the chosen cell of a sheet: its picture onto the easel, its recipe into the studio. */
	async takeCell() {
		const { shown, at, image } = this.sheets;
		if (!shown) return;
		try {
			const params = await ipc.sheetCell(shown.id, at);
			if (image) this.easel.show(image);
			else this.sheets.close();
			await this.restore(params, 'all');
		} catch (error) {
			this.toasts.fail(error);
		}
	}

	/** A picture of the gallery as the one to start from. */
	async startFrom(id: number) {
		try {
			this.generation.startFrom(await ipc.startFrom(id));
			this.view.go('studio');
		} catch (error) {
			this.toasts.fail(error);
		}
	}

	saveStack(name: string) {
		return ipc.saveStack(name, this.generation.saveStack());
	}

	loadStack({ stack }: NamedStack) {
		this.generation.loadStack(stack as SavedStack);
	}

	/** Takes it off the list, with an Undo. */
	async deleteStack({ name, stack }: NamedStack) {
		try {
			await ipc.deleteStack(name);
			this.toasts.show({
				message: `The stack “${name}” is deleted.`,
				action: {
					label: 'Undo',
					run: () => void ipc.saveStack(name, stack).catch((error) => this.toasts.fail(error))
				}
			});
		} catch (error) {
			this.toasts.fail(error);
		}
	}

	#handle(event: Event) {
		this.queue.handle(event);
		this.live.handle(event);
		this.easel.handle(event);
		this.sheets.handle(event);
		this.recents.handle(event);
		this.library.handle(event);
		this.gallery.handle(event);
		this.settings.handle(event);
		switch (event.event) {
			case 'snapshot':
				this.#stacks = event.data.stacks;
				for (const notice of event.data.notices) this.toasts.show(notice);
				break;
			case 'stacks':
				this.#stacks = event.data;
				break;
			case 'files':
				void this.drop.drop(event.data);
				break;
			case 'notice':
				this.toasts.show(event.data);
				break;
		}
	}

	async #begin(snapshot: Snapshot) {
		const session = readSession(snapshot.session);
		if (session) {
			this.generation.load(session.document);
			this.view.load(session.view);
			this.gallery.load(session.gallery);
			this.library.shelf.load(session.shelf);
		} else {
			this.#firstStart = true;
		}
		await Promise.all([this.library.refresh(), this.recents.refresh()]).catch((error) =>
			this.toasts.fail(error)
		);
		if (!session) this.#layStarter();
		const shown = session?.easel.shown;
		const image = (shown != null && this.recents.byId(shown)) || this.recents.images[0];
		this.easel.begin(image || undefined, session?.easel.zoom ?? null);
		await this.sheets.load(session?.sheet).catch((error) => this.toasts.fail(error));
		this.#askFits();
		this.#askTokens();
	}

	/** The first start teaches by doing: two of the starter's styles lie on the stack. */
	#layStarter() {
		const styles = this.library.cards.filter((card) => card.starter && card.kind === 'adapter');
		const layers = FIRST_LAYERS.flatMap(({ name, weight }) => {
			const card = styles.find((style) => style.name === name);
			return card ? [{ card, weight }] : [];
		});
		this.generation.beginWith(layers);
		this.#untouched = layers.length === 0;
	}

	/** Adapters go onto the stack; what needs an answer, or cannot be used, is given back. */
	async #receive(dropped: Dropped[]): Promise<Dropped[]> {
		if (dropped.some((one) => 'card' in one)) await this.library.refresh();
		const usable = dropped.filter((one) => one.kind === 'adapter' && one.usable);
		this.generation.together(() => {
			// The last one dropped would lie on top; the first one that was picked should.
			for (const one of usable.toReversed()) {
				const card = one.kind === 'adapter' && this.library.byId(one.card);
				if (card) this.generation.addLayer(card);
			}
		});
		for (const one of usable) {
			if (one.kind === 'adapter' && one.note) this.toasts.show({ message: one.note });
		}
		return dropped.filter((one) => !usable.includes(one));
	}

	#askFits(anew = false) {
		const adapters = this.generation.layers.flatMap((layer) => this.cardOf(layer)?.id ?? []);
		void this.fits
			.ask(this.groundCard?.id, adapters, anew)
			.then(() => {
				// What does not fit brings no words either.
				this.#askTokens();
				return this.#askStrengths(anew);
			})
			.catch((error) => this.toasts.fail(error));
	}

	/** Only of what is known to fit: one file that cannot be read would spoil the answer for all. */
	#askStrengths(anew: boolean) {
		const fitting = this.generation.layers.flatMap((layer) => {
			const id = this.cardOf(layer)?.id;
			return id !== undefined && this.fits.of(id) && this.reasonOut(layer) === null ? [id] : [];
		});
		return this.strengths.ask(this.groundCard?.id, fitting, anew);
	}

	#askTokens() {
		const { layers, prompt, negativePrompt } = this.generation;
		const ground = this.groundCard?.id ?? null;
		const adapters = layers.flatMap((layer) => {
			const id =
				this.generation.sounds(layer) && weighs(layer) ? this.cardOf(layer)?.id : undefined;
			return id ?? [];
		});
		this.tokens.ask(ground, adapters, prompt);
		this.negativeTokens.ask(ground, adapters, negativePrompt);
	}

	#save(): SavedSession {
		return {
			version: 1,
			document: this.generation.save(),
			view: this.view.save(),
			easel: { zoom: this.easel.zoom, shown: this.easel.image?.id ?? null },
			sheet: this.sheets.save(),
			gallery: this.gallery.save(),
			shelf: this.library.shelf.save()
		};
	}
}
