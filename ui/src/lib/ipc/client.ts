/**
 * The only file that talks to Rust. One line per command; the types are generated from the Rust
 * side by `cargo test`, and `tests/tidy` fails when a command here has no counterpart there.
 */
import { Channel, invoke } from '@tauri-apps/api/core';
import type {
	AxisWish,
	Catalog,
	ConvertPlan,
	ConvertWish,
	Deleted,
	DropItem,
	Dropped,
	Event,
	Failure,
	Fit,
	GalleryCounts,
	GalleryImage,
	GalleryQuery,
	GenerationParams,
	InputPicture,
	Library,
	ModelNote,
	RecipeOffer,
	Settings,
	Sheet,
	SheetPlan,
	StackStrength,
	TokenCount
} from './types';

export const ipc = {
	catalog: () => call<Catalog>('catalog'),
	/** Starts the event stream. The first event is a snapshot, so a reload is safe. */
	subscribe: (onEvent: (event: Event) => void) => {
		const channel = new Channel<Event>();
		channel.onmessage = onEvent;
		return call<void>('subscribe', { channel });
	},

	// Queue
	/** One job for each picture, with seeds counting up; their ids. */
	enqueue: (params: GenerationParams, count: number) =>
		call<number[]>('enqueue', { params, count }),
	/** Removes a queued job, stops a running one. */
	cancelJob: (job: number) => call<void>('cancel_job', { job }),
	/** Puts a job that ended without a picture at the end of the queue again. */
	requeueJob: (job: number) => call<void>('requeue_job', { job }),
	/** Takes a job that ended out of the list. */
	dismissJob: (job: number) => call<void>('dismiss_job', { job }),
	moveJob: (job: number, before: number | null) => call<void>('move_job', { job, before }),
	setPaused: (paused: boolean) => call<void>('set_paused', { paused }),

	// Sheets
	/** What a sheet along one or two axes would be. Fails with what is wrong about an axis. */
	planSheet: (params: GenerationParams, x: AxisWish, y: AxisWish | null) =>
		call<SheetPlan>('plan_sheet', { params, x, y }),
	/** A job for each cell, all with one seed; the id of the sheet. */
	startSheet: (params: GenerationParams, x: AxisWish, y: AxisWish | null) =>
		call<number>('start_sheet', { params, x, y }),
	sheet: (id: number) => call<Sheet>('sheet', { id }),
	/** What a cell was asked to be: its picture’s recipe lacks what weighed nothing there. */
	sheetCell: (id: number, place: number) => call<GenerationParams>('sheet_cell', { id, place }),
	/** Stops what is left of it. */
	cancelSheet: (id: number) => call<void>('cancel_sheet', { id }),
	/** Puts the cells without a picture into the queue again. */
	completeSheet: (id: number) => call<void>('complete_sheet', { id }),
	/** The pictures stay in the gallery. */
	deleteSheet: (id: number) => call<void>('delete_sheet', { id }),
	/** Asks where, and writes it as one picture with labels; `null`: the person thought better of it. */
	exportSheet: (sheet: number) => call<string | null>('export_sheet', { sheet }),

	// Live
	/** Asks for a frame; the newest wish wins. `moving`: fewer steps, while the hand moves. */
	live: (params: GenerationParams, wish: number, moving: boolean) =>
		call<void>('live', { params, wish, moving }),
	liveOff: () => call<void>('live_off'),

	// Gallery
	/** Ids in order, as one buffer of 32-bit numbers. */
	imageIds: async (query: GalleryQuery) =>
		new Uint32Array(await call<ArrayBuffer>('image_ids', { query })),
	images: (ids: number[]) => call<GalleryImage[]>('images', { ids }),
	galleryCounts: () => call<GalleryCounts>('gallery_counts'),
	setFavourite: (ids: number[], favourite: boolean) =>
		call<void>('set_favourite', { ids, favourite }),
	/** Into the trash. Fails with `no_trash` where there is none, unless `forGood` says to delete all the same. */
	deleteImages: (ids: number[], forGood: boolean) =>
		call<Deleted>('delete_images', { ids, forGood }),
	undoDelete: (undo: number) => call<void>('undo_delete', { undo }),
	/** Opens the file manager with the picture selected. */
	showImage: (id: number) => call<void>('show_image', { id }),
	/** Puts the picture itself on the clipboard. */
	copyImage: (id: number) => call<void>('copy_image', { id }),
	/** Starts dragging the files out of the window, under the mouse button that is down. */
	dragImages: (ids: number[]) => call<void>('drag_images', { ids }),
	/** The recipe as other programs write it. */
	recipeText: (id: number) => call<string>('recipe_text', { id }),
	/** Reads a pasted recipe, of this or another program. */
	readRecipe: (text: string) => call<RecipeOffer>('read_recipe', { text }),

	// Library
	library: () => call<Library>('library'),
	/** What each adapter would do on a base model; ids of cards. */
	fits: (checkpoint: number, adapters: number[]) => call<Fit[]>('fits', { checkpoint, adapters }),
	/** Takes a moment for what was not measured before. A later question ends an earlier one (`cancelled`). */
	strengths: (checkpoint: number, adapters: number[]) =>
		call<StackStrength>('strengths', { checkpoint, adapters }),
	setModelNote: (card: number, note: ModelNote) => call<void>('set_model_note', { card, note }),
	/** The cover becomes this picture of the gallery; `null`: what the file brings. */
	setCover: (card: number, image: number | null) => call<void>('set_cover', { card, image }),
	copyIntoLibrary: (card: number) => call<void>('copy_into_library', { card }),
	cancelCopy: (card: number) => call<void>('cancel_copy', { card }),
	/** What writing a model anew would give: name, place and size. */
	planConversion: (card: number, wish: ConvertWish) =>
		call<ConvertPlan>('plan_conversion', { card, wish }),
	convertModel: (card: number, wish: ConvertWish) => call<void>('convert_model', { card, wish }),
	cancelConversion: (card: number) => call<void>('cancel_conversion', { card }),
	/** Takes a checkpoint that is used where it lies off the list; the file stays. */
	forgetModel: (card: number) => call<void>('forget_model', { card }),
	/** An adapter of our own folder, into the trash. */
	deleteModel: (card: number) => call<void>('delete_model', { card }),
	showModel: (card: number) => call<void>('show_model', { card }),
	/** `{name: shape}` of every tensor, for a report of a file that does not work. */
	keyListing: (card: number) => call<string>('key_listing', { card }),
	/** Another program's folder is not offered again. */
	declineFolder: (path: string) => call<void>('decline_folder', { path }),
	rescan: () => call<void>('rescan'),

	// Drop
	describeDrop: (paths: string[], checkpoint: number | null) =>
		call<DropItem[]>('describe_drop', { paths, checkpoint }),
	drop: (paths: string[]) => call<Dropped[]>('drop_files', { paths }),
	/** A picture of the gallery as the one to start from. */
	startFrom: (id: number) => call<InputPicture>('start_from', { id }),
	/** The first picture that a recipe names; `null` if it is gone. */
	inputPicture: (sha256: string) => call<InputPicture | null>('input_picture', { sha256 }),

	// Prompt
	countTokens: (checkpoint: number | null, adapters: number[], text: string) =>
		call<TokenCount>('count_tokens', { checkpoint, adapters, text }),

	// What the person owns
	saveSession: (session: unknown) => call<void>('save_session', { session }),
	saveStack: (name: string, stack: unknown) => call<void>('save_stack', { name, stack }),
	deleteStack: (name: string) => call<void>('delete_stack', { name }),
	setSettings: (settings: Settings) => call<void>('set_settings', { settings }),

	// Files
	/** The system's dialog; paths that were chosen. */
	chooseFiles: (kind: 'models' | 'pictures') => call<string[]>('choose_files', { kind }),
	chooseFolder: () => call<string | null>('choose_folder'),
	openLog: () => call<void>('open_log')
};

/** Where pixels come from; `revision` makes a new picture a new address. */
export function pixels(
	kind: 'picture' | 'thumb' | 'cover' | 'preview' | 'live' | 'input',
	id: number | string,
	revision?: number | null
): string {
	return `impasto://localhost/${kind}/${id}${revision == null ? '' : `?rev=${revision}`}`;
}

/** A command that failed. Branch on `code`, show `message` and `hint`; never match the text. */
export class IpcError extends Error {
	readonly failure: Failure;

	constructor(command: string, failure: Failure) {
		super(failure.message);
		this.name = `ipc.${command}`;
		this.failure = failure;
	}
}

async function call<T>(command: string, args?: Record<string, unknown>): Promise<T> {
	try {
		return await invoke<T>(command, args);
	} catch (payload) {
		throw new IpcError(command, payload as Failure);
	}
}
