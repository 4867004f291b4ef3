/** The arithmetic of a weight: what range a stroke has, and where it holds. */

export const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);

/** -1 to 2, and wider in whole numbers, up to -4 to 4, once a weight asks for it. */
export function span(weight: number): [number, number] {
	return [
		clamp(Math.floor(Math.min(weight, -1)), -4, -1),
		clamp(Math.ceil(Math.max(weight, 2)), 2, 4)
	];
}

/** In steps of 0.01, and for a moment still at 0 and 1, where the hand wants to stop. */
export function snapped(weight: number): number {
	for (const stop of [0, 1]) if (Math.abs(weight - stop) < 0.035) return stop;
	return Number(weight.toFixed(2));
}
