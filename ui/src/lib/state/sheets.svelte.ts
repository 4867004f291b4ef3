/** Sheets: the list of them, and the one on the easel with the cell that is looked at. */
import { counted } from '$lib/format';
import { ipc } from '$lib/ipc/client';
import type {
	Axis,
	AxisWish,
	Event,
	GalleryImage,
	GenerationParams,
	Job,
	JobState,
	Sheet,
	SheetCell,
	SheetEntry
} from '$lib/ipc/types';

const WAITING: readonly JobState[] = ['queued', 'running'];
const ENCODES_ANEW = ['conditioning', 'model'];

/** What a session remembers: which sheet was shown, and which cell of it. */
export interface SavedSheet {
	id: number;
	at: number;
}

export class Sheets {
	#list = $state.raw<readonly SheetEntry[]>([]);
	#shown = $state.raw<Sheet | null>(null);
	#at = $state(0);
	#near = $state(false);
	#image = $state.raw<GalleryImage | null>(null);
	#composing = $state(false);

	#fail: (error: unknown) => void;
	/** Counts questions: an answer that was overtaken is dropped. */
	#asked = 0;
	/** Jobs that changed while an answer was under way, which may not know it yet. */
	#early = new Map<number, Job>();

	/** After a sheet was opened or closed, or another cell chosen. */
	onchange: (() => void) | null = null;
	/** After the easel shows a sheet, one of its cells or a picture in place of another of these. */
	onturn: (() => void) | null = null;

	constructor(fail: (error: unknown) => void) {
		this.#fail = fail;
	}

	/** All of them, the newest first. */
	get list(): readonly SheetEntry[] {
		return this.#list;
	}

	/** The one on the easel. */
	get shown(): Sheet | null {
		return this.#shown;
	}

	/** Place of the chosen cell: from the left, then from the bottom. */
	get at() {
		return this.#at;
	}

	get cell(): SheetCell | null {
		return this.#shown?.cells[this.#at] ?? null;
	}

	/** The picture of the chosen cell, once it is there. */
	get image(): GalleryImage | null {
		return this.#image?.id === this.cell?.image ? this.#image : null;
	}

	/** The chosen cell stands alone on the easel. */
	get near() {
		return this.#near;
	}

	/** The dialog for a new one is open. */
	get composing() {
		return this.#composing;
	}

	get columns() {
		return this.#shown?.x.values.length ?? 0;
	}

	get rows() {
		return this.#shown?.y?.values.length ?? 1;
	}

	/** Cells that have their picture. */
	get done() {
		return this.#shown?.cells.filter((cell) => cell.image !== null).length ?? 0;
	}

	/** Some of it is still to be made. */
	get running() {
		return this.#shown?.cells.some((cell) => WAITING.includes(cell.state)) ?? false;
	}

	/** Cells that ended without a picture, or whose picture was deleted. */
	get missing() {
		const missing = (cell: SheetCell) => cell.image === null && !WAITING.includes(cell.state);
		return this.#shown?.cells.filter(missing).length ?? 0;
	}

	/** "Watercolour 0.75", "Ink Drawing 0.66": the values of a place. */
	valuesAt(place: number): string[] {
		const sheet = this.#shown;
		if (!sheet) return [];
		const value = (axis: Axis | null, index: number) => {
			const label = axis?.values[index]?.label;
			return axis && label !== undefined ? [`${axis.title} ${label}`] : [];
		};
		return [
			...value(sheet.x, place % this.columns),
			...value(sheet.y, Math.floor(place / this.columns))
		];
	}

	compose(open = true) {
		this.#composing = open;
	}

	async start(params: GenerationParams, x: AxisWish, y: AxisWish | null) {
		await this.open(await ipc.startSheet(params, x, y));
	}

	/** Puts a sheet on the easel. */
	async open(id: number, at = 0) {
		this.#near = false;
		await this.#ask(id);
		if (this.#shown?.id !== id) return;
		this.choose(at);
		this.onturn?.();
	}

	/** Takes it off the easel; it stays in the list. */
	close() {
		if (!this.#shown) return;
		this.#asked += 1;
		this.#shown = null;
		this.#near = false;
		this.onchange?.();
		this.onturn?.();
	}

	choose(place: number) {
		const cells = this.#shown?.cells.length ?? 0;
		if (cells === 0) return;
		this.#at = Math.min(Math.max(place, 0), cells - 1);
		this.#look();
		this.onchange?.();
	}

	/** To the cell beside it: `up` is towards larger values, as they are drawn. */
	move(right: number, up: number) {
		const column = (this.#at % this.columns) + right;
		const row = Math.floor(this.#at / this.columns) + up;
		if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return;
		this.choose(row * this.columns + column);
	}

	/** Shows the chosen cell alone, or all of them again. */
	setNear(near: boolean) {
		if (!this.#shown || near === this.#near) return;
		this.#near = near;
		this.onturn?.();
	}

	cancel() {
		return this.#do((id) => ipc.cancelSheet(id));
	}

	complete() {
		return this.#do((id) => ipc.completeSheet(id));
	}

	remove() {
		return this.#do(async (id) => {
			await ipc.deleteSheet(id);
			if (this.#shown?.id === id) this.close();
		});
	}

	/** Gives the place where it was written; nothing if the person thought better of it. */
	async export(): Promise<string | null> {
		return this.#shown && ipc.exportSheet(this.#shown.id);
	}

	save(): SavedSheet | null {
		return this.#shown && { id: this.#shown.id, at: this.#at };
	}

	/** What was shown at the end; a sheet that is gone is not missed. */
	async load(saved: SavedSheet | null | undefined) {
		if (!saved || !this.#list.some((sheet) => sheet.id === saved.id)) return;
		await this.open(saved.id, saved.at);
	}

	handle(event: Event) {
		switch (event.event) {
			case 'snapshot':
				this.#list = event.data.sheets;
				break;
			case 'sheets':
				this.#list = event.data;
				if (!this.#list.some((sheet) => sheet.id === this.#shown?.id)) this.close();
				break;
			case 'job':
				this.#early.set(event.data.id, event.data);
				this.#update(event.data.id, ({ image }) => ({
					state: event.data.state,
					image: event.data.image ?? image
				}));
				break;
			case 'job_removed':
				this.#update(event.data, ({ state }) => ({
					state: WAITING.includes(state) ? 'cancelled' : state
				}));
				break;
			case 'gallery':
				// Pictures may have been deleted, or have come back.
				if (this.#shown) this.#ask(this.#shown.id).catch(this.#fail);
				break;
		}
	}

	async #ask(id: number) {
		const mine = ++this.#asked;
		this.#early.clear();
		const sheet = await ipc.sheet(id);
		if (mine !== this.#asked) return;
		this.#shown = sheet;
		for (const { id: job, state, image } of this.#early.values()) {
			if (image !== null || state !== 'done') this.#update(job, () => ({ state, image }));
		}
		this.#look();
	}

	async #do(work: (id: number) => Promise<void>) {
		if (!this.#shown) return;
		try {
			await work(this.#shown.id);
			// Cells may have other jobs now.
			if (this.#shown) await this.#ask(this.#shown.id);
		} catch (error) {
			this.#fail(error);
		}
	}

	#update(job: number, change: (cell: SheetCell) => Partial<SheetCell>) {
		const sheet = this.#shown;
		const place = sheet?.cells.findIndex((cell) => cell.job === job) ?? -1;
		const cell = sheet?.cells[place];
		if (!sheet || !cell) return;
		const cells = [...sheet.cells];
		cells[place] = { ...cell, ...change(cell) };
		this.#shown = { ...sheet, cells };
		if (place === this.#at) this.#look();
	}

	/** Asks for what is known of the chosen picture. */
	#look() {
		const id = this.cell?.image ?? null;
		if (id === null || this.#image?.id === id) return;
		ipc.images([id]).then(([image]) => {
			if (image && this.cell?.image === image.id) this.#image = image;
		}, this.#fail);
	}
}

/** "Watercolour → Ink ↑": what changes, and which way. */
export function axesOf({ x, y }: Pick<Sheet, 'x' | 'y'>): string[] {
	return [`${x.title} →`, ...(y ? [`${y.title} ↑`] : [])];
}

/** "20 pictures, one seed, conditioning shared". */
export function facts({ x, y, cells }: Pick<Sheet, 'x' | 'y'> & { cells: readonly unknown[] }) {
	const axes = y ? [x, y] : [x];
	return [
		counted(cells.length, 'picture'),
		!axes.some((axis) => axis.target.kind === 'seed') && 'one seed',
		!axes.some((axis) => ENCODES_ANEW.includes(axis.reach)) && 'conditioning shared'
	]
		.filter(Boolean)
		.join(', ');
}
