/**
 * The arithmetic of the blend pad: from the place of its knob to each corner's share, and back.
 * Of two layers it is a way from left to right, of three a triangle, of four a square.
 */

/** On the pad, from its upper left: 0 to 1 each. */
export interface Place {
	x: number;
	y: number;
}

/** How many layers a pad has at least, and at most. */
export const FEWEST = 2;
export const MOST = 4;

const WAY: readonly Place[] = [
	{ x: 0, y: 0.5 },
	{ x: 1, y: 0.5 }
];
/** The top layer is above, as on the stack. */
const TRIANGLE: readonly Place[] = [
	{ x: 0.5, y: 0 },
	{ x: 0, y: 1 },
	{ x: 1, y: 1 }
];
const SQUARE: readonly Place[] = [
	{ x: 0, y: 0 },
	{ x: 1, y: 0 },
	{ x: 0, y: 1 },
	{ x: 1, y: 1 }
];

/** Where the corners are; the first belongs to the top layer. */
export function cornersOf(count: number): readonly Place[] {
	if (count === 2) return WAY;
	return count === 3 ? TRIANGLE : SQUARE;
}

/** What each corner has at a place of the pad: together 1, none negative. */
export function shares({ x, y }: Place, count: number): number[] {
	if (count === 2) return [1 - x, x];
	if (count === 3) {
		const right = x - (1 - y) / 2;
		return [1 - y, y - right, right];
	}
	return [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y];
}

/**
 * The place whose shares are those of the weights: the mean of the corners, weighed by them. Of four
 * corners the shares have one degree of freedom more than the pad: then left and right, and above and
 * below, are what they should be. A negative weight counts as 0, and of zeros the place is the middle.
 */
export function placeOf(weights: readonly number[]): Place {
	const parts = weights.map((weight) => Math.max(weight, 0));
	const sum = parts.reduce((a, b) => a + b, 0);
	const place = { x: 0, y: 0 };
	cornersOf(weights.length).forEach((corner, at) => {
		const share = sum > 0 ? (parts[at] ?? 0) / sum : 1 / weights.length;
		place.x += share * corner.x;
		place.y += share * corner.y;
	});
	return place;
}

/** Equal shares. */
export const middle = (count: number): Place => placeOf(Array(count).fill(1));

/** The place on the pad for one beside it: at the same height, where the pad has that height. */
export function within({ x, y }: Place, count: number): Place {
	if (count === 2) return { x: clamp(x, 0, 1), y: 0.5 };
	const height = clamp(y, 0, 1);
	const half = count === 3 ? height / 2 : 0.5;
	return { x: clamp(x, 0.5 - half, 0.5 + half), y: height };
}

const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);
