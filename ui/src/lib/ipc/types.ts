// Written by `cargo test -p impasto-studio` from the Rust types; do not edit.

/** A file by name and hash. */
export type FileRef = { name: string; sha256?: string; data_sha256?: string };

/** One adapter of the stack. */
export type AdapterParams = FileRef & {
	unet_weight: number;
	text_encoder_weight: number;
	enabled: boolean;
};

/** The picture to start from. */
export type InitParams = { image: FileRef | null; denoising_strength: number; fit: InitFit };

/** How a first picture of another shape is brought to the picture's: its edges cut off, or bars added. */
export type InitFit = 'crop' | 'fit';

export type NoiseParams = FileRef & { index: number };

export type Rng = 'torch-cpu' | 'nv';
export type Precision = 'f32' | 'bf16' | 'f16';

/** All that a person chose for a picture. */
export type GenerationParams = {
	version: number;
	model: FileRef;
	vae: FileRef | null;
	adapters: AdapterParams[];
	prompt: string;
	negative_prompt: string;
	width: number;
	height: number;
	steps: number;
	guidance_scale: number;
	sampler: string;
	schedule: string;
	/** Up to 2^53 - 1; `null` asks for a random one. */
	seed: number | null;
	rng: Rng;
	clip_skip: number;
	precision: Precision;
	init: InitParams | null;
	noise: NoiseParams | null;
};

/** What a program can do about a failure, beyond showing it. */
export type Code =
	| 'cancelled'
	| 'missing_file'
	| 'wrong_base_model'
	| 'invalid_params'
	| 'out_of_memory'
	| 'no_trash'
	| 'unknown';

/** A failure. `message` and `hint` are whole sentences. */
export type Failure = { code: Code; field: string | null; message: string; hint: string | null };

// ---- queue

export type JobState = 'queued' | 'running' | 'done' | 'failed' | 'cancelled' | 'interrupted';

export type Job = {
	id: number;
	state: JobState;
	params: GenerationParams;
	/** The picture that it made. */
	image: number | null;
	error: Failure | null;
	/** Milliseconds since 1970. */
	created_at: number;
};

export type Phase = 'load' | 'patch' | 'encode' | 'sample' | 'decode';

export type JobProgress = {
	job: number;
	phase: Phase;
	done: number;
	total: number;
	/** Sampler steps begun, and of how many; 0 outside `sample`. */
	step: number;
	steps: number;
	/** Revision of `preview/JOB`, once there is one. */
	preview: number | null;
	/** Until the picture is there, once that can be told. */
	seconds_left: number | null;
};

// ---- gallery

export type GalleryImage = {
	id: number;
	/** File name. */
	name: string;
	/** Folder and file name, for tooltips. */
	path: string;
	width: number;
	height: number;
	favourite: boolean;
	/** Milliseconds since 1970. */
	created_at: number;
	/** How long it took to make, where that is known. */
	seconds: number | null;
	device: string | null;
	/** `null`: the file has no recipe that we understand. */
	params: GenerationParams | null;
	/** What an adapter did, one per entry of the stack that was switched on. */
	patches: AdapterPatch[];
	/** What the person should know of how it was made: "the VAE overflowed in f16 …". Whole sentences. */
	warnings: string[];
};

export type AdapterPatch = {
	name: string;
	applied: number;
	total: number;
	/** Modules that had no effect, with the reason: at most 100 of them. */
	left_out: Problem[];
};

export type Problem = { name: string; reason: string };

export type GalleryQuery = {
	/** Words that prompt, adapters, ground or seed must contain; empty for all. */
	search: string;
	favourites: boolean;
	/** Only those made since then, in milliseconds since 1970. */
	since: number | null;
	/** Name of a base model. */
	ground: string | null;
	/** Name of an adapter. */
	adapter: string | null;
	oldest_first: boolean;
};

export type GalleryCounts = {
	all: number;
	favourites: number;
	grounds: NameCount[];
	adapters: NameCount[];
};
export type NameCount = { name: string; count: number };

/** What became of pictures that were to be deleted. */
export type Deleted = {
	/** For `undo_delete`; `null` where they cannot come back. */
	undo: number | null;
	count: number;
};

// ---- library

export type ModelKind = 'checkpoint' | 'adapter' | 'vae' | 'embedding' | 'other';

export type ModelCard = {
	/** Stable as long as the file keeps its place. */
	id: number;
	kind: ModelKind;
	/** What recipes call it. */
	name: string;
	/** For a person: the note's, the sidecar's, the starter's, else the name. */
	title: string;
	path: string;
	/** Index into `Library.folders`; `null`: used where it lies. */
	folder: number | null;
	/** "SD 1.x", "SDXL"; `null`: not known. */
	family: string | null;
	/** One line about it: "LoCon · rank 8", "v-prediction". */
	summary: string;
	/** "LoRA", "LoCon", "LoHa"; adapters only. */
	algorithm: string | null;
	/** Smallest and largest. */
	rank: [number, number] | null;
	/** Modules that it changes. */
	modules: number;
	bytes: number;
	/** Milliseconds since 1970. */
	modified_at: number;
	/** Whether this program can run it. */
	usable: boolean;
	/** Why it is not usable, or what is odd about it: whole sentences. */
	notes: string[];
	trigger_words: string[];
	/** Weight that it is put on the stack with. */
	default_weight: number;
	/** Revision of `cover/ID`; `null`: there is none, draw a swatch. */
	cover: number | null;
	/** 0 to 11. */
	pigment: number;
	/** Once it is known. */
	sha256: string | null;
	/** Id of another card with the same contents. */
	duplicate_of: number | null;
	/** Comes with the program. */
	starter: boolean;
	/** What suits it, for checkpoints that are usable. */
	defaults: GenerationParams | null;
	/** Trainer, date, base model, licence, …: label and value. */
	facts: [string, string][];
	/** When it was last used, in milliseconds since 1970. */
	used_at: number | null;
	/** What the person said of it: `set_model_note` replaces it whole. */
	note: ModelNote;
};

export type Library = { revision: number; cards: ModelCard[]; folders: LibraryFolder[]; scanning: boolean };

export type LibraryFolder = {
	name: string;
	path: string;
	/** Ours: dropped adapters go there. */
	own: boolean;
	/** Why it cannot be read. */
	problem: string | null;
};

/** What an adapter would do on a base model. */
export type Fit = {
	/** Id of the adapter's card. */
	adapter: number;
	applied: number;
	total: number;
	left_out: Problem[];
	/** Why it stays out of the picture; a whole sentence. */
	refusal: string | null;
};

/** What the person says of a model file; it wins over what the file says. `null`: nothing said. */
export type ModelNote = {
	title: string | null;
	trigger_words: string[] | null;
	default_weight: number | null;
	pigment: number | null;
};

// ---- drop

/** What a file is, and what dropping it would do. */
export type DropItem = {
	path: string;
	name: string;
	kind: 'adapter' | 'checkpoint' | 'vae' | 'picture' | 'other';
	/** "LoRA · SD 1.x · rank 32 · 264 of 264 modules match · trigger “inkwash”" */
	what: string;
	/** "onto the stack", "offered as ground", "offer its recipe", "left alone" */
	fate: string;
	usable: boolean;
};

/** What became of a dropped file. */
export type Dropped =
	| { kind: 'adapter'; card: number; usable: boolean; note: string | null }
	| { kind: 'checkpoint'; card: number; usable: boolean; note: string | null }
	| { kind: 'vae'; card: number }
	| { kind: 'picture'; picture: InputPicture; recipe: RecipeOffer | null }
	| { kind: 'refused'; name: string; failure: Failure };

/** A picture that a recipe can start from; its pixels are at `input/ID`. */
export type InputPicture = { id: string; file: FileRef; name: string; width: number; height: number };

/** The recipe of a file, as far as it could be read. */
export type RecipeOffer = { params: GenerationParams; warnings: string[] };

// ---- prompt

export type TokenCount = {
	/** Of the last chunk, and of all. */
	used: number;
	total: number;
	/** Tokens in a chunk: 75. */
	limit: number;
	/** Where chunks end, as offsets into the text in UTF-16 units; the last is left out. */
	ends: number[];
};

// ---- Live

export type LiveState = 'off' | 'waiting' | 'rendering' | 'shown' | 'failed';

export type Live = {
	state: LiveState;
	/** Of `live/0`; `null` before the first frame. */
	revision: number | null;
	/** The wish that the shown frame answers. */
	wish: number;
	/** Whether the shown frame is the full recipe, not one with fewer steps. */
	full: boolean;
	/** From wish to frame. */
	seconds: number | null;
	/** Why Live waits: "A picture of the queue is being made." */
	reason: string | null;
	error: Failure | null;
};

// ---- settings

export type Theme = 'system' | 'light' | 'dark';

export type Settings = {
	theme: Theme;
	/** Folder for pictures; `null`: the platform's. */
	output_folder: string | null;
	/** Folders of other programs. */
	model_folders: string[];
	device: string;
	/** Threads to compute with; `null`: all cores. */
	threads: number | null;
	/** Show a desktop notification when a picture is done and the window is not in front. */
	notify: boolean;
	/** Show previews while sampling. */
	previews: boolean;
	/** Ask before pictures are deleted. */
	confirm_delete: boolean;
};

// ---- the whole

export type Choice = { id: string; name: string };
export type Device = { id: string; name: string; memory_bytes: number | null; unusable: string | null };

/** The tables: what there is to choose from. */
export type Catalog = {
	samplers: Choice[];
	schedules: Choice[];
	devices: Device[];
	max_side: number;
	version: string;
	cores: number;
};

export type NamedStack = { name: string; stack: unknown; saved_at: number };

/** Something that the person must know and that has no place of its own. */
export type Notice = { message: string; hint: string | null };

export type Snapshot = {
	jobs: Job[];
	/** Ids of queued jobs, in order. */
	order: number[];
	paused: boolean;
	progress: JobProgress | null;
	live: Live;
	settings: Settings;
	/** What the window saved last; `null` at the first start. */
	session: unknown;
	stacks: NamedStack[];
	/** Parameters to begin with: the starter's, without adapters. */
	defaults: GenerationParams;
	/** "CPU · f32" */
	device: string;
	output_folder: string;
	data_folder: string;
	gallery_revision: number;
	library_revision: number;
	notices: Notice[];
};

export type CopyProgress = { card: number; done: number; total: number; error: Failure | null };

export type Event =
	| { event: 'snapshot'; data: Snapshot }
	| { event: 'job'; data: Job }
	| { event: 'job_removed'; data: number }
	| { event: 'queue'; data: { order: number[]; paused: boolean } }
	| { event: 'progress'; data: JobProgress }
	| { event: 'image_saved'; data: GalleryImage }
	/** Pictures were deleted, restored, marked or found: ask again. */
	| { event: 'gallery'; data: { revision: number } }
	| { event: 'library'; data: { revision: number } }
	| { event: 'copying'; data: CopyProgress }
	| { event: 'settings'; data: Settings }
	| { event: 'stacks'; data: NamedStack[] }
	| { event: 'live'; data: Live }
	/** Files that the system or a second start handed over. */
	| { event: 'files'; data: string[] }
	| { event: 'notice'; data: Notice };
