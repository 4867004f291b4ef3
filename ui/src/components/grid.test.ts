import { describe, expect, it } from 'vitest';
import { inSight, layOut, leadsTo } from './grid';

const square = (width: number) => width;

describe('a grid of equal cells', () => {
	it('fills the width with as many columns as fit', () => {
		const { columns, cell, row, height } = layOut(12, 640, 150, 10, square);
		expect(columns).toBe(4);
		expect(cell).toBeCloseTo(152.5);
		expect(row).toBe(163);
		expect(height).toBe(3 * 163 - 10);
	});

	it('has one column in a window that is too narrow', () => {
		expect(layOut(3, 80, 150, 10, square).columns).toBe(1);
	});

	it('stays within the height that webviews can scroll, for 100,000 of the largest', () => {
		expect(layOut(100_000, 760, 360, 10, square).height).toBeLessThan(33_000_000);
	});

	it('shows the rows in sight and two more at each end', () => {
		const layout = layOut(100_000, 640, 150, 10, square);
		expect(inSight(layout, 100_000, 0, 700, 2)).toEqual([0, 28]);
		expect(inSight(layout, 100_000, layout.row * 1_000, 700, 2)).toEqual([998 * 4, 1_007 * 4]);
		expect(inSight(layout, 10, 0, 700, 2)).toEqual([0, 10]);
	});

	it('leads from cell to cell by the arrows, and not past the ends', () => {
		const lead = (key: string, at: number) => leadsTo(key, at, 10, 4, 2);
		expect(lead('ArrowRight', 3)).toBe(4);
		expect(lead('ArrowDown', 1)).toBe(5);
		// Under 7 there is nothing, but there is a row: its last cell is the nearest.
		expect(lead('ArrowDown', 7)).toBe(9);
		expect(lead('ArrowDown', 9)).toBe(9);
		expect(lead('ArrowUp', 2)).toBe(2);
		expect(lead('ArrowLeft', 0)).toBe(0);
		expect(lead('PageDown', 0)).toBe(8);
		expect(lead('End', -1)).toBe(9);
		expect(lead('ArrowDown', -1)).toBe(0);
		expect(lead('x', 3)).toBeNull();
	});
});
