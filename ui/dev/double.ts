/**
 * A double of the Rust side for a browser: it stands where Tauri's internals stand and answers every
 * command with made-up data. For work on the window without a build, and for screenshots. Options in
 * the address: `?pictures=100000&cards=2000&session=…&theme=light&slow=1&devices=3`.
 */
import type {
	ConvertWish,
	Dropped,
	Event,
	Failure,
	FolderOffer,
	GalleryImage,
	GalleryQuery,
	GenerationParams,
	Job,
	JobProgress,
	Live,
	ModelNote,
	Settings,
	Sheet,
	SheetCell,
	SheetEntry,
	Snapshot,
	StackStrength
} from '../src/lib/ipc/types';
import { cards as makeCards, coverageOf, DEFAULTS } from './models';
import { answerPixels, chances } from './pictures';

type Args = Record<string, never>;
type Command = (args: Args) => unknown;

const options = new URLSearchParams(location.search);
const number = (name: string, otherwise: number) => Number(options.get(name) ?? otherwise);
const STEP = number('step', 120);
const HOUR = 3_600_000;

// ---- what there is

const cards = makeCards(number('cards', 0));
const THINGS = ['fox', 'castle', 'owl', 'rocket', 'robot', 'sunflower', 'lion', 'unicorn', 'panda'];
const COLOURS = ['light blue', 'pink', 'navy blue', 'orange', 'lavender', 'teal', 'cream'];
const STYLES = ['neon', 'watercolor', 'ink', 'pixel'];
const pictureCount = number('pictures', 24);
const added: GalleryImage[] = [];
const gone = new Set<number>();
const favourites = new Set<number>([3, 8]);
const started = Date.now();

function picture(id: number): GalleryImage {
	const known = added.find((image) => image.id === id);
	if (known) return { ...known, favourite: favourites.has(id) };
	const next = chances(id);
	const pick = <T>(from: readonly T[]) => from[Math.floor(next() * from.length)] as T;
	const style = next() > 0.3 ? pick(STYLES) : null;
	const words = cards.find((card) => card.name === style)?.trigger_words[0];
	const params: GenerationParams = {
		...DEFAULTS,
		prompt: `a ${pick(THINGS)} on a ${pick(COLOURS)} background${words ? `, ${words}` : ''}`,
		seed: Math.floor(next() * 1e6),
		adapters: style
			? [{ name: style, unet_weight: 0.8, text_encoder_weight: 0.8, enabled: true }]
			: []
	};
	return {
		id,
		name: `${String(id).padStart(5, '0')}-${params.seed}.png`,
		path: `Pictures/Impasto/${String(id).padStart(5, '0')}-${params.seed}.png`,
		width: params.width,
		height: params.height,
		favourite: favourites.has(id),
		created_at: started - (pictureCount - id) * HOUR * 3,
		seconds: 1.5 + next(),
		device: 'CPU',
		params,
		patches: style ? [{ name: style, applied: 138, beside: 0, total: 138, left_out: [] }] : [],
		warnings: id % 17 === 5 ? ['Two modules of the adapter did not fit and were left out.'] : []
	};
}

function idsOf(query: GalleryQuery): number[] {
	const ids = Array.from({ length: pictureCount + added.length }, (_, at) => at + 1)
		.filter((id) => !gone.has(id))
		.reverse();
	const plain =
		!query.search && !query.favourites && !query.since && !query.ground && !query.adapter;
	const found = plain
		? ids
		: ids.filter((id) => {
				if (query.favourites && !favourites.has(id)) return false;
				const image = picture(id);
				if (query.since && image.created_at < query.since) return false;
				const names = image.params?.adapters.map((adapter) => adapter.name) ?? [];
				if (query.adapter && !names.includes(query.adapter)) return false;
				if (query.ground && image.params?.model.name !== query.ground) return false;
				const text = `${image.params?.prompt} ${names} ${image.params?.seed}`;
				return text.toLowerCase().includes(query.search.toLowerCase());
			});
	return query.oldest_first ? found.reverse() : found;
}

let settings: Settings = {
	theme: (options.get('theme') as Settings['theme']) ?? 'system',
	output_folder: null,
	model_folders: [],
	device: 'auto',
	threads: null,
	model_memory: null,
	notify: true,
	previews: true,
	confirm_delete: options.has('confirm')
};

// ---- the queue: on each device one picture after the other, in steps

const jobs = new Map<number, Job>();
let order: number[] = [];
let paused = false;
const deviceCount = number('devices', 1);
/** One device is the processor; more are cards. */
const cardIds = Array.from({ length: deviceCount > 1 ? deviceCount : 0 }, (_, at) => `cuda:${at}`);
/** The jobs that run: how far they are, and their next step. */
const running = new Map<
	number,
	{ progress: JobProgress | null; timer?: ReturnType<typeof setTimeout> }
>();
let nextJob = 1;
let revision = 1;
let converting: ReturnType<typeof setTimeout> | undefined;
let offers: FolderOffer[] = [{ program: 'ComfyUI', path: '/home/me/ComfyUI', models: 214 }];

const fail = (
	message: string,
	hint: string | null = null,
	code: Failure['code'] = 'unknown'
): never => {
	throw { code, field: null, message, hint } satisfies Failure;
};

function setJob(id: number, part: Partial<Job>) {
	const job = jobs.get(id);
	if (!job) return;
	jobs.set(id, { ...job, ...part });
	send({ event: 'job', data: { ...job, ...part } });
	keepCell(id, part);
}

const sendQueue = () => send({ event: 'queue', data: { order: [...order], paused } });

function enqueue(params: GenerationParams, count: number): number[] {
	const ids = Array.from({ length: count }, (_, at) => {
		const id = nextJob++;
		const seed = (params.seed ?? Math.floor(Math.random() * 2 ** 32)) + at;
		const job: Job = {
			id,
			state: 'queued',
			params: { ...params, seed },
			image: null,
			error: null,
			created_at: Date.now(),
			sheet: null
		};
		jobs.set(id, job);
		order.push(id);
		send({ event: 'job', data: job });
		return id;
	});
	sendQueue();
	work();
	return ids;
}

function work() {
	while (!paused && running.size < deviceCount) {
		const id = order.shift();
		if (id === undefined) return;
		running.set(id, { progress: null });
		setJob(id, { state: 'running' });
		sendQueue();
		step(id, 0);
	}
}

function step(id: number, at: number) {
	const job = jobs.get(id);
	if (job?.state !== 'running') return;
	const { steps } = job.params;
	if (job.params.prompt.includes('fail') && at === 3) {
		running.delete(id);
		setJob(id, {
			state: 'failed',
			error: {
				code: 'out_of_memory',
				field: null,
				message: 'The CPU ran out of memory while decoding the picture.',
				hint: 'Choose a smaller size, or close other programs that use much memory.'
			}
		});
		return work();
	}
	if (at > steps) return finish(job);
	const progress: JobProgress = {
		job: id,
		phase: at === 0 ? 'load' : 'sample',
		done: at,
		total: steps,
		step: at,
		steps,
		preview: at > 1 && settings.previews ? at : null,
		seconds_left: at > 1 ? ((steps - at) * STEP) / 1000 : null
	};
	send({ event: 'progress', data: progress });
	running.set(id, { progress, timer: setTimeout(() => step(id, at + 1), STEP) });
}

function finish(job: Job) {
	const id = pictureCount + added.length + 1;
	const image: GalleryImage = {
		...picture(id),
		params: job.params,
		name: `${id}-${job.params.seed}.png`,
		width: job.params.width,
		height: job.params.height,
		created_at: Date.now(),
		seconds: 1.9,
		patches: job.params.adapters
			.filter((adapter) => adapter.enabled)
			.map(({ name }) => ({ name, applied: 138, beside: 0, total: 138, left_out: [] }))
	};
	added.push(image);
	running.delete(job.id);
	send({ event: 'image_saved', data: image });
	setJob(job.id, { state: 'done', image: id });
	work();
}

function cancel(id: number) {
	order = order.filter((other) => other !== id);
	clearTimeout(running.get(id)?.timer);
	running.delete(id);
	setJob(id, { state: 'cancelled' });
	sendQueue();
	work();
}

// ---- sheets: kept as the session is, so that they are there after a reload

interface Wish {
	target: Sheet['x']['target'];
	title: string | null;
	values: string;
}

const sheets: Sheet[] = JSON.parse(localStorage.getItem('sheets') ?? '[]');

const entryOf = ({ id, title, x, y, created_at }: Sheet): SheetEntry => ({
	id,
	title,
	columns: x.values.length,
	rows: y?.values.length ?? 1,
	created_at
});

function tellSheets() {
	localStorage.setItem('sheets', JSON.stringify(sheets));
	send({ event: 'sheets', data: sheets.map(entryOf) });
}

function keepCell(job: number, part: Partial<Job>) {
	for (const sheet of sheets) {
		const cell = sheet.cells.find((one) => one.job === job);
		if (!cell) continue;
		if (part.state) cell.state = part.state;
		if (part.image) cell.image = part.image;
	}
	localStorage.setItem('sheets', JSON.stringify(sheets));
}

/** Numbers, `0-1 [5]` and words: enough to look at. */
function axisOf(field: string, { target, title, values }: Wish): Sheet['x'] {
	const weight = target.kind === 'weight';
	const labels = values.split(',').flatMap((item) => {
		const range = /^\s*([\d.]+)-([\d.]+)(?:\s*\[(\d+)\])?\s*$/.exec(item);
		if (!range) return item.trim() ? [item.trim()] : [];
		const [start, end] = [Number(range[1]), Number(range[2])];
		const count = Number(range[3] ?? end - start + 1);
		return Array.from({ length: count }, (_, at) =>
			(start + ((end - start) * at) / Math.max(count - 1, 1)).toFixed(weight ? 2 : 0)
		);
	});
	const name = target.kind.replace('_', ' ');
	const named = title ?? name.charAt(0).toUpperCase() + name.slice(1);
	if (weight && labels.some((label) => Number.isNaN(Number(label)))) {
		throw {
			code: 'invalid_params',
			field,
			message: `The values of “${named}” cannot be used: one of them is no number.`,
			hint: 'Numbers are written `0.5`, ranges `0-1 (+0.25)`, `0-1 [5]` or `1-5`.'
		} satisfies Failure;
	}
	return {
		target,
		title: named,
		reach: ['words', 'clip_skip'].includes(target.kind) ? 'conditioning' : 'unet',
		values: labels.map((label) => ({ label, value: weight ? Number(label) : label }))
	};
}

function gridOf({ x, y }: { x: Wish; y: Wish | null }) {
	const [across, up] = [axisOf('x', x), y && axisOf('y', y)];
	const pictures = across.values.length * (up?.values.length ?? 1);
	if (pictures < 2) {
		throw {
			code: 'invalid_params',
			field: 'sheet',
			message: 'A sheet of one picture shows no difference.',
			hint: 'Write at least two values: `0, 1` or `0-1 [5]`.'
		} satisfies Failure;
	}
	const title = up ? `${across.title} × ${up.title}` : `Strength of ${across.title}`;
	return { x: across, y: up, pictures, title };
}

function startSheet(args: { params: GenerationParams; x: Wish; y: Wish | null }): number {
	const { x, y, pictures, title } = gridOf(args);
	const id = (sheets[0]?.id ?? 0) + 1;
	const made = Array.from({ length: pictures }, () => enqueue(args.params, 1)[0] ?? 0);
	const cells = made.map((job): SheetCell => {
		const known = jobs.get(job);
		if (known) jobs.set(job, { ...known, sheet: id });
		return { job, state: jobs.get(job)?.state ?? 'queued', image: null };
	});
	sheets.unshift({ id, title, params: args.params, x, y, cells, created_at: Date.now() });
	tellSheets();
	for (const job of made) setJob(job, {});
	return id;
}

const sheetOf = (id: number) =>
	sheets.find((sheet) => sheet.id === id) ?? fail('This sheet is gone.', 'It was deleted.');

function cancelSheet(id: number) {
	for (const { job, state } of sheetOf(id).cells.toReversed()) {
		if (['queued', 'running'].includes(state)) cancel(job);
	}
}

// ---- Live

let live: Live = {
	state: 'off',
	revision: null,
	wish: 0,
	full: false,
	seconds: null,
	reason: null,
	error: null
};
let frame: ReturnType<typeof setTimeout> | undefined;

function wish(newest: number, moving: boolean) {
	clearTimeout(frame);
	const tell = (part: Partial<Live>) =>
		send({ event: 'live', data: (live = { ...live, ...part }) });
	if (running.size === deviceCount) {
		return tell({
			state: 'waiting',
			reason: 'A picture of the queue is being made.',
			wish: newest
		});
	}
	tell({ state: 'rendering', reason: null });
	frame = setTimeout(
		() =>
			tell({
				state: 'shown',
				revision: (live.revision ?? 0) + 1,
				wish: newest,
				full: !moving,
				seconds: moving ? 0.3 : 1.4
			}),
		moving ? 60 : 400
	);
}

// ---- how much adapters change the ground

const BLOCKS = 28;
let measuring = 0;

/** Changes of adapters as vectors, of four numbers for each block: a part of them is the same in all. */
function change(id: number): number[][] {
	const [common, own] = [chances(99), chances(id * 37)];
	const size = 0.7 + chances(id)() * 0.6;
	return Array.from({ length: BLOCKS }, (_, block) => {
		const share = block === BLOCKS - 1 ? 0 : Math.sin(((block + 1) * Math.PI) / BLOCKS);
		return Array.from({ length: 4 }, () => size * share * (0.45 * common() + own() - 0.5));
	});
}

const dot = (a: number[] = [], b: number[] = []) =>
	a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);

async function strengths(adapters: number[]): Promise<StackStrength> {
	const mine = ++measuring;
	await new Promise((resolve) => setTimeout(resolve, 5 * STEP));
	if (mine !== measuring) fail('Another question came.', null, 'cancelled');
	const changes = adapters.map(change);
	return {
		adapters: adapters.map((adapter) => ({
			adapter,
			relative: 0.01 + 0.02 * chances(adapter)(),
			without_effect: 0,
			problem:
				cardOf(adapter)?.name === 'twemoji'
					? 'Three of its modules hold numbers that are none, and are left out.'
					: null
		})),
		products: changes.map((one) =>
			changes.map((other) => one.map((values, block) => dot(values, other[block])))
		)
	};
}

// ---- files

const INK = cards.find((card) => card.name === 'ink');

function describe(path: string) {
	const name = path.split('/').at(-1) ?? path;
	if (name.endsWith('.png')) {
		return {
			path,
			name,
			kind: 'picture',
			what: 'a picture with its recipe',
			fate: 'offer its recipe',
			usable: true
		};
	}
	if (name.includes('model')) {
		return {
			path,
			name,
			kind: 'checkpoint',
			what: 'SD 1.x · epsilon · 4.3 GB',
			fate: 'offered as ground',
			usable: true
		};
	}
	if (name.endsWith('.safetensors')) {
		const what = 'LoRA · SD 1.x · rank 32 · 264 of 264 modules match · trigger “inkwash”';
		return { path, name, kind: 'adapter', what, fate: 'onto the stack', usable: true };
	}
	return {
		path,
		name,
		kind: 'other',
		what: 'a text file: no weights in it',
		fate: 'left alone',
		usable: false
	};
}

function dropped(path: string): Dropped {
	const { name, kind } = describe(path);
	if (kind === 'adapter') return { kind, card: INK?.id ?? 0, usable: true, note: null };
	if (kind === 'checkpoint') return { kind, card: 8, usable: true, note: null };
	if (kind === 'picture') {
		const { params } = picture(4);
		const input = { id: 'in4', file: { name, sha256: 'f4' }, name, width: 512, height: 384 };
		return { kind, picture: input, recipe: params && { params, warnings: [] } };
	}
	const message = `${name} is a text file: there are no weights in it.`;
	return {
		kind: 'refused',
		name,
		failure: {
			code: 'unknown',
			field: null,
			message,
			hint: 'Drop a .safetensors file, a folder of a model or a picture.'
		}
	};
}

// ---- commands

const cardOf = (id: number) => cards.find((card) => card.id === id);

const commands: Record<string, Command> = {
	catalog: () => ({
		accelerations: [
			['lcm', 'LCM'],
			['lightning', 'Lightning']
		].map(([id, name]) => ({ id, name })),
		samplers: [
			['euler', 'Euler'],
			['euler_a', 'Euler a'],
			['heun', 'Heun'],
			['dpmpp_2m', 'DPM++ 2M'],
			['dpmpp_2m_sde', 'DPM++ 2M SDE'],
			['unipc', 'UniPC'],
			['lcm', 'LCM']
		].map(([id, name]) => ({ id, name })),
		schedules: [
			['uniform', 'Uniform'],
			['karras', 'Karras'],
			['exponential', 'Exponential'],
			['sgm_uniform', 'SGM uniform']
		].map(([id, name]) => ({ id, name })),
		devices: [
			{ id: 'cpu', name: 'CPU', memory_bytes: 25_000_000_000, driver: null, unusable: null },
			...cardIds.map((id) => ({
				id,
				name: 'NVIDIA card',
				memory_bytes: 24_000_000_000,
				driver: 'CUDA 13.0',
				unusable: null
			}))
		],
		best_devices: cardIds.length > 0 ? cardIds : ['cpu'],
		max_side: 2048,
		version: '0.2.0',
		cores: 8
	}),
	subscribe: ({ channel }: { channel: { id: number } }) => {
		listener = channel.id;
		sent = 0;
		const saved = options.get('session') === 'new' ? null : localStorage.getItem('session');
		const snapshot: Snapshot = {
			jobs: [...jobs.values()],
			order,
			paused,
			progress: [...running.values()].flatMap(({ progress }) => progress ?? []),
			live,
			settings,
			session: saved ? JSON.parse(saved) : null,
			stacks: JSON.parse(localStorage.getItem('stacks') ?? '[]'),
			sheets: sheets.map(entryOf),
			defaults: DEFAULTS,
			device: cardIds.length > 0 ? `${deviceCount} cards · f32` : 'CPU · f32',
			output_folder: 'Pictures/Impasto',
			data_folder: '.local/share/impasto',
			gallery_revision: 1,
			library_revision: 1,
			notices: []
		};
		send({ event: 'snapshot', data: snapshot });
	},
	enqueue: ({ params, count }: { params: GenerationParams; count: number }) =>
		enqueue(params, count),
	cancel_job: ({ job }: { job: number }) => cancel(job),
	requeue_job: ({ job }: { job: number }) => {
		setJob(job, { state: 'queued', error: null });
		order.push(job);
		sendQueue();
		work();
	},
	dismiss_job: ({ job }: { job: number }) => {
		jobs.delete(job);
		send({ event: 'job_removed', data: job });
	},
	move_job: ({ job, before }: { job: number; before: number | null }) => {
		order = order.filter((other) => other !== job);
		order.splice(before === null ? order.length : order.indexOf(before), 0, job);
		sendQueue();
	},
	set_paused: (args: { paused: boolean }) => {
		paused = args.paused;
		sendQueue();
		work();
	},
	plan_sheet: (args: { x: Wish; y: Wish | null }) => {
		const { x, y, pictures, title } = gridOf(args);
		const labels = (axis: Sheet['x']) => axis.values.map((value) => value.label);
		const axes = y ? [x, y] : [x];
		return {
			title,
			columns: labels(x),
			rows: y ? labels(y) : [''],
			pictures,
			seconds: pictures * 2.4,
			shared: axes.every((axis) => axis.reach === 'unet')
		};
	},
	start_sheet: startSheet,
	sheet: ({ id }: { id: number }) => sheetOf(id),
	sheet_cell: ({ id }: { id: number }) => sheetOf(id).params,
	cancel_sheet: ({ id }: { id: number }) => cancelSheet(id),
	complete_sheet: ({ id }: { id: number }) => {
		for (const cell of sheetOf(id).cells) {
			if (cell.image !== null || ['queued', 'running'].includes(cell.state)) continue;
			cell.job = enqueue(sheetOf(id).params, 1)[0] ?? 0;
			cell.state = 'queued';
		}
	},
	delete_sheet: ({ id }: { id: number }) => {
		cancelSheet(id);
		sheets.splice(sheets.indexOf(sheetOf(id)), 1);
		tellSheets();
	},
	export_sheet: ({ sheet }: { sheet: number }) => `Pictures/Impasto/${sheetOf(sheet).title}.png`,
	live: ({ wish: newest, moving }: { wish: number; moving: boolean }) => wish(newest, moving),
	live_off: () => {
		clearTimeout(frame);
		live = { ...live, state: 'off', revision: null };
	},
	image_ids: ({ query }: { query: GalleryQuery }) => new Uint32Array(idsOf(query)).buffer,
	images: ({ ids }: { ids: number[] }) => ids.map(picture),
	gallery_counts: () => ({
		all: pictureCount + added.length - gone.size,
		favourites: favourites.size,
		grounds: [{ name: 'starter', count: pictureCount }],
		adapters: STYLES.map((name, at) => ({ name, count: Math.round(pictureCount / (at + 2)) }))
	}),
	set_favourite: ({ ids, favourite }: { ids: number[]; favourite: boolean }) => {
		for (const id of ids) {
			if (favourite) favourites.add(id);
			else favourites.delete(id);
		}
		send({ event: 'gallery', data: { revision: ++revision } });
	},
	delete_images: ({ ids }: { ids: number[] }) => {
		for (const id of ids) gone.add(id);
		send({ event: 'gallery', data: { revision: ++revision } });
		return { undo: 1, count: ids.length };
	},
	undo_delete: () => {
		gone.clear();
		send({ event: 'gallery', data: { revision: ++revision } });
	},
	recipe_text: ({ id }: { id: number }) => {
		const { params } = picture(id);
		return `${params?.prompt}\nSteps: ${params?.steps}, Sampler: DPM++ 2M, Seed: ${params?.seed}`;
	},
	read_recipe: ({ text }: { text: string }) => ({
		params: { ...DEFAULTS, prompt: text },
		warnings: []
	}),
	library: () => ({
		revision,
		cards: [...cards],
		folders: [
			{
				name: 'Library',
				path: '.local/share/impasto/models',
				own: true,
				program: null,
				problem: null
			},
			...settings.model_folders.map((path) => ({
				name: path.split('/').at(-1) ?? path,
				path,
				own: false,
				program: path.includes('Comfy') ? 'ComfyUI' : null,
				problem: null
			}))
		],
		offers: [...offers],
		scanning: false
	}),
	fits: ({ checkpoint, adapters }: { checkpoint: number; adapters: number[] }) =>
		adapters.map((adapter) => {
			const card = cardOf(adapter);
			const ground = cardOf(checkpoint);
			const total = card?.modules ?? 0;
			const short = card?.name === 'watercolor' ? 2 : 0;
			return {
				adapter,
				applied: total - short,
				total,
				left_out: Array.from({ length: short }, (_, at) => ({
					name: `unet.down_blocks.${at}.attentions.0.proj_in`,
					reason: 'The ground has no module of this shape.'
				})),
				coverage: card ? coverageOf(card, ground) : [],
				refusal: card?.family === ground?.family ? null : `Made for ${card?.family}.`
			};
		}),
	strengths: ({ adapters }: { adapters: number[] }) => strengths(adapters),
	set_model_note: ({ card: id, note }: { card: number; note: ModelNote }) => {
		const card = cardOf(id);
		if (!card) return;
		card.note = note;
		if (note.title) card.title = note.title;
		if (note.trigger_words) card.trigger_words = note.trigger_words;
		if (note.default_weight !== null) card.default_weight = note.default_weight;
		if (note.pigment !== null) card.pigment = note.pigment;
		if (note.prediction) card.summary = note.prediction.replace('_', '-');
		send({ event: 'library', data: { revision: ++revision } });
	},
	set_cover: ({ card: id, image }: { card: number; image: number | null }) => {
		const card = cardOf(id);
		if (card) card.cover = image;
		send({ event: 'library', data: { revision: ++revision } });
	},
	copy_into_library: ({ card }: { card: number }) => {
		let done = 0;
		const total = cardOf(card)?.bytes ?? 1;
		const tick = () => {
			done = Math.min(done + total / 10, total);
			send({ event: 'copying', data: { card, done, total, error: null } });
			if (done < total) setTimeout(tick, 200);
		};
		tick();
	},
	plan_conversion: ({ card: id, wish }: { card: number; wish: ConvertWish }) => {
		const card = cardOf(id);
		const share = wish.precision === 'f32' ? 2 : 1;
		const blend = wish.adapters.length > 0 ? '-blend' : '';
		const suffix = blend + (wish.precision ? `-${wish.precision}` : '');
		return {
			name: wish.name ?? `${card?.name}${suffix}`,
			place: '.local/share/impasto/models/checkpoints',
			bytes: Math.round((card?.bytes ?? 0) * share),
			free: 212_000_000_000,
			from_folder: card?.starter === true && card.kind === 'checkpoint',
			problem: null
		};
	},
	convert_model: ({ card }: { card: number }) => {
		let done = 0;
		const total = cardOf(card)?.bytes ?? 1;
		const tick = () => {
			done = Math.min(done + total / 10, total);
			const made = done < total ? null : card;
			send({ event: 'converting', data: { card, done, total, made, error: null } });
			if (done < total) converting = setTimeout(tick, 200);
		};
		tick();
	},
	cancel_conversion: () => clearTimeout(converting),
	decline_folder: ({ path }: { path: string }) => {
		offers = offers.filter((offer) => offer.path !== path);
		send({ event: 'library', data: { revision: ++revision } });
	},
	key_listing: () => '{"unet.conv_in.weight": [320, 4, 3, 3]}',
	describe_drop: ({ paths }: { paths: string[] }) => paths.map(describe),
	drop_files: ({ paths }: { paths: string[] }) => paths.map(dropped),
	start_from: ({ id }: { id: number }) => {
		const { name, width, height } = picture(id);
		return { id: `in${id}`, file: { name, sha256: `f${id}` }, name, width, height };
	},
	input_picture: () => null,
	count_tokens: ({ text }: { text: string }) => {
		const total = (text.match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? []).length;
		const ends = [...text.matchAll(/\S+/g)].map((word) => word.index + word[0].length);
		const full = Math.floor(Math.max(total - 1, 0) / 75);
		return {
			used: total - full * 75,
			total,
			limit: 75,
			ends: full ? [ends[60] ?? text.length] : []
		};
	},
	save_session: ({ session }: { session: unknown }) =>
		localStorage.setItem('session', JSON.stringify(session)),
	save_stack: ({ name, stack }: { name: string; stack: unknown }) => {
		const others = JSON.parse(localStorage.getItem('stacks') ?? '[]').filter(
			(one: { name: string }) => one.name !== name
		);
		const stacks = [{ name, stack, saved_at: Date.now() }, ...others];
		localStorage.setItem('stacks', JSON.stringify(stacks));
		send({ event: 'stacks', data: stacks });
	},
	delete_stack: ({ name }: { name: string }) => {
		const stacks = JSON.parse(localStorage.getItem('stacks') ?? '[]').filter(
			(one: { name: string }) => one.name !== name
		);
		localStorage.setItem('stacks', JSON.stringify(stacks));
		send({ event: 'stacks', data: stacks });
	},
	set_settings: (args: { settings: Settings }) => {
		settings = args.settings;
		offers = offers.filter((offer) => !settings.model_folders.includes(offer.path));
		send({ event: 'settings', data: settings });
		send({ event: 'library', data: { revision: ++revision } });
	},
	choose_files: () => [],
	choose_folder: () => null,
	'plugin:event|listen': ({ event, handler }: { event: string; handler: number }) => {
		listeners.set(event, [...(listeners.get(event) ?? []), handler]);
		return handler;
	},
	'plugin:event|unlisten': () => undefined
} as unknown as Record<string, Command>;

const SILENT = [
	'show_image',
	'copy_image',
	'drag_images',
	'show_model',
	'open_log',
	'rescan',
	'cancel_copy'
];

// ---- Tauri's internals

let listener: number | null = null;
let sent = 0;
const callbacks = new Map<number, (message: unknown) => void>();
const listeners = new Map<string, number[]>();
let nextCallback = 1;

function send(event: Event) {
	if (listener === null) return;
	const index = sent++;
	const message = structuredClone(event);
	const to = listener;
	setTimeout(() => callbacks.get(to)?.({ index, message }));
}

function emit(event: string, payload: unknown) {
	for (const handler of listeners.get(event) ?? [])
		callbacks.get(handler)?.({ event, id: handler, payload });
}

async function invoke(command: string, args: Args) {
	if (SILENT.includes(command)) return;
	const answer = commands[command] ?? fail(`The double does not know ${command}.`);
	return structuredClone(await answer(structuredClone({ ...args, ...plainChannel(args) }) as Args));
}

/** A channel is a live object: only its number goes over. */
function plainChannel(args: Record<string, unknown> = {}) {
	const channel = args.channel as { id: number } | undefined;
	return channel ? { channel: { id: channel.id } } : {};
}

Object.assign(window, {
	__TAURI_INTERNALS__: {
		metadata: {
			currentWindow: { label: 'main' },
			currentWebview: { label: 'main', windowLabel: 'main' }
		},
		transformCallback: (callback: (message: unknown) => void) => {
			callbacks.set(nextCallback, callback);
			return nextCallback++;
		},
		unregisterCallback: (id: number) => callbacks.delete(id),
		runCallback: (id: number, message: unknown) => callbacks.get(id)?.(message),
		convertFileSrc: (path: string) => path,
		invoke
	},
	__TAURI_EVENT_PLUGIN_INTERNALS__: { unregisterListener: () => undefined },
	/** For screenshots: events from outside, and jobs that a crash left behind. */
	double: {
		emit,
		send,
		interrupt: (prompt: string) => {
			const [id] = enqueue({ ...DEFAULTS, prompt }, 1);
			if (id === undefined) return;
			cancel(id);
			setJob(id, { state: 'interrupted' });
		}
	}
});

answerPixels(
	(job, at) => at / (jobs.get(job)?.params.steps ?? at),
	(kind, id) => {
		if (kind === 'preview') return pictureCount + added.length + 1;
		const value = Number(id.replace(/\D/g, '')) || 0;
		return kind === 'cover' ? value * 31 : value;
	}
);
