import { mockIPC } from '@tauri-apps/api/mocks';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Axis, Event, GalleryImage, Job, Sheet } from '$lib/ipc/types';
import { axesOf, facts, Sheets } from './sheets.svelte';

const axis = (title: string, labels: string[], part: Partial<Axis> = {}): Axis => ({
	target: { kind: 'steps' },
	title,
	reach: 'unet',
	values: labels.map((label) => ({ label, value: label })),
	...part
});

const X = axis('Watercolour', ['0.00', '0.50', '1.00']);
const Y = axis('Ink', ['low', 'high']);

const sheet = (part: Partial<Sheet> = {}): Sheet =>
	({
		id: 3,
		title: 'Watercolour × Ink',
		params: { width: 128, height: 128, seed: 7 },
		x: X,
		y: Y,
		cells: Array.from({ length: 6 }, (_, at) => ({ job: 10 + at, state: 'queued', image: null })),
		created_at: 0,
		...part
	}) as Sheet;

const job = (id: number, part: Partial<Job>): Event =>
	({ event: 'job', data: { id, image: null, ...part } as Job }) as Event;

let stored: Sheet;
let called: string[];
let release: (() => void) | null;

beforeEach(() => {
	stored = sheet();
	called = [];
	release = null;
	mockIPC(async (command, payload) => {
		called.push(command);
		switch (command) {
			case 'sheet': {
				const answer = structuredClone(stored);
				if (release) await new Promise<void>((resolve) => (release = resolve));
				return answer;
			}
			case 'start_sheet':
				return 3;
			case 'images':
				return (payload as { ids: number[] }).ids.map(
					(id) => ({ id, warnings: [], params: { seed: 7 } }) as unknown as GalleryImage
				);
		}
	});
});

const fail = vi.fn();

async function opened() {
	const sheets = new Sheets(fail);
	sheets.handle({
		event: 'sheets',
		data: [{ id: 3, title: 'x', columns: 3, rows: 2, created_at: 0 }]
	});
	await sheets.open(3);
	return sheets;
}

describe('a sheet on the easel', () => {
	it('fills as its jobs end, and says what is left', async () => {
		const sheets = await opened();
		expect([sheets.columns, sheets.rows, sheets.done, sheets.running]).toEqual([3, 2, 0, true]);
		sheets.handle(job(10, { state: 'done', image: 70 }));
		for (const id of [11, 12, 13, 14]) sheets.handle(job(id, { state: 'cancelled' }));
		expect([sheets.done, sheets.missing, sheets.running]).toEqual([1, 4, true]);
		sheets.handle(job(15, { state: 'failed' }));
		expect([sheets.missing, sheets.running]).toEqual([5, false]);
		// A job that is dismissed takes no picture away.
		sheets.handle({ event: 'job_removed', data: 10 });
		expect(sheets.cell).toEqual({ job: 10, state: 'done', image: 70 });
		await vi.waitFor(() => expect(sheets.image?.id).toBe(70));
	});

	it('does not lose what happens while it is asked for', async () => {
		const sheets = new Sheets(fail);
		release = () => undefined;
		const opening = sheets.open(3);
		await vi.waitFor(() => expect(called).toContain('sheet'));
		sheets.handle(job(12, { state: 'done', image: 72 }));
		release();
		await opening;
		expect(sheets.shown?.cells[2]).toEqual({ job: 12, state: 'done', image: 72 });
	});

	it('goes from cell to cell and stops at the edges', async () => {
		const sheets = await opened();
		const walk = (...steps: [number, number][]) =>
			steps.map(([right, up]) => (sheets.move(right, up), sheets.at));
		expect(walk([-1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0], [0, -1])).toEqual([
			0, 1, 4, 4, 5, 5, 2
		]);
		expect(sheets.valuesAt(5)).toEqual(['Watercolour 1.00', 'Ink high']);
		expect(sheets.valuesAt(0)).toEqual(['Watercolour 0.00', 'Ink low']);
	});

	it('is remembered with its cell, unless it is gone', async () => {
		const sheets = await opened();
		sheets.choose(4);
		expect(sheets.save()).toEqual({ id: 3, at: 4 });
		const next = new Sheets(fail);
		await next.load({ id: 3, at: 4 });
		expect(next.shown).toBeNull();
		next.handle({
			event: 'sheets',
			data: [{ id: 3, title: 'x', columns: 3, rows: 2, created_at: 0 }]
		});
		await next.load({ id: 3, at: 4 });
		expect([next.shown?.id, next.at]).toEqual([3, 4]);
		next.handle({ event: 'sheets', data: [] });
		expect([next.shown, next.save()]).toEqual([null, null]);
	});

	it('loses pictures that were deleted', async () => {
		stored.cells[0] = { job: 10, state: 'done', image: 70 };
		const sheets = await opened();
		expect(sheets.done).toBe(1);
		stored.cells[0] = { job: 10, state: 'done', image: null };
		sheets.handle({ event: 'gallery', data: { revision: 2 } });
		await vi.waitFor(() => expect(sheets.done).toBe(0));
		expect(sheets.missing).toBe(1);
	});

	it('asks again after a verb, as cells may have other jobs', async () => {
		const sheets = await opened();
		stored.cells[0] = { job: 99, state: 'queued', image: null };
		await sheets.complete();
		expect(called.slice(-2)).toEqual(['complete_sheet', 'sheet']);
		sheets.handle(job(99, { state: 'running' }));
		expect(sheets.cell?.state).toBe('running');
		await sheets.remove();
		expect(sheets.shown).toBeNull();
		expect(fail).not.toHaveBeenCalled();
	});

	it('stands alone only while it is there', async () => {
		const sheets = await opened();
		sheets.setNear(true);
		expect(sheets.near).toBe(true);
		sheets.close();
		expect(sheets.near).toBe(false);
		sheets.setNear(true);
		expect(sheets.near).toBe(false);
	});
});

describe('what is said below a sheet', () => {
	it('names the axes and what all cells have in common', () => {
		expect(axesOf(sheet())).toEqual(['Watercolour →', 'Ink ↑']);
		expect(axesOf(sheet({ y: null }))).toEqual(['Watercolour →']);
		expect(facts(sheet())).toBe('six pictures, one seed, conditioning shared');
		const seeds = axis('Seed', ['1', '2'], { target: { kind: 'seed' }, reach: 'sampling' });
		expect(facts({ x: seeds, y: null, cells: [1, 2] })).toBe('two pictures, conditioning shared');
		const words = axis('Words', ['fox', 'owl'], {
			target: { kind: 'words' },
			reach: 'conditioning'
		});
		expect(facts({ x: words, y: null, cells: [1, 2] })).toBe('two pictures, one seed');
	});
});
