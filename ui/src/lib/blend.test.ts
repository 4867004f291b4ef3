import { describe, expect, it } from 'vitest';
import { cornersOf, middle, placeOf, shares, within, type Place } from './blend';

const COUNTS = [2, 3, 4];
const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);

/** Places all over the pad. */
function places(count: number): Place[] {
	const steps = Array.from({ length: 11 }, (_, at) => at / 10);
	return steps.flatMap((y) => steps.map((x) => within({ x, y }, count)));
}

function expectPlace(place: Place, { x, y }: Place) {
	expect(place.x).toBeCloseTo(x, 12);
	expect(place.y).toBeCloseTo(y, 12);
}

describe('the shares at a place of the pad', () => {
	it.each(COUNTS)('are together 1 and never negative, with %i corners', (count) => {
		for (const place of places(count)) {
			const parts = shares(place, count);
			expect(parts).toHaveLength(count);
			expect(sum(parts)).toBeCloseTo(1, 12);
			for (const part of parts) expect(part).toBeGreaterThan(-1e-12);
		}
	});

	it.each(COUNTS)('are all of one layer at its corner, with %i corners', (count) => {
		cornersOf(count).forEach((corner, at) => {
			shares(corner, count).forEach((part, other) => expect(part).toBe(other === at ? 1 : 0));
		});
	});

	it.each(COUNTS)('are equal in the middle, with %i corners', (count) => {
		for (const part of shares(middle(count), count)) expect(part).toBeCloseTo(1 / count, 12);
	});

	it('are what the drawing of the pad shows', () => {
		expect(shares({ x: 0.25, y: 0.5 }, 2)).toEqual([0.75, 0.25]);
		expect(shares({ x: 0.5, y: 0.5 }, 3)).toEqual([0.5, 0.25, 0.25]);
		expect(shares({ x: 0.25, y: 0.5 }, 4)).toEqual([0.375, 0.125, 0.375, 0.125]);
	});
});

describe('the place of weights', () => {
	it.each(COUNTS)('is where they came from, whatever the amount, with %i corners', (count) => {
		for (const place of places(count)) {
			const weights = shares(place, count).map((share) => share * 1.3);
			expectPlace(placeOf(weights), place);
		}
	});

	it('has left and right, above and below as they are where no place of the square has the shares', () => {
		// Two opposite corners only: no place of a square has that.
		expectPlace(placeOf([0.5, 0, 0, 0.5]), { x: 0.5, y: 0.5 });
		expectPlace(placeOf([0.6, 0.2, 0, 0.2]), { x: 0.4, y: 0.2 });
	});

	it('counts negative weights as 0, and is the middle where nothing is left', () => {
		expectPlace(placeOf([0.8, -0.4]), { x: 0, y: 0.5 });
		for (const count of COUNTS) {
			expectPlace(placeOf(Array(count).fill(0)), middle(count));
			expectPlace(placeOf(Array(count).fill(-1)), middle(count));
		}
	});
});

describe('a place beside the pad', () => {
	it('is brought onto it', () => {
		expect(within({ x: 1.4, y: -3 }, 2)).toEqual({ x: 1, y: 0.5 });
		expect(within({ x: -0.2, y: 1.2 }, 4)).toEqual({ x: 0, y: 1 });
		expect(within({ x: 0, y: 0.5 }, 3)).toEqual({ x: 0.25, y: 0.5 });
		expect(within({ x: 1, y: -1 }, 3)).toEqual({ x: 0.5, y: 0 });
	});

	it.each(COUNTS)('stays where it is when it is on the pad, with %i corners', (count) => {
		for (const place of places(count)) expect(within(place, count)).toEqual(place);
	});
});
