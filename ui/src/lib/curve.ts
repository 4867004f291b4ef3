/** An adapter's weight over the steps: the arithmetic of its curve, the same as the engine's. */
import type { FadeName, KeyframeParams } from '$lib/ipc/types';

/** Keyframes in order; none: 1 throughout. */
export type Curve = readonly KeyframeParams[];

export interface Place {
	/** 0 is the first step, 1 the last. */
	at: number;
	/** What the weight is multiplied by. */
	factor: number;
}

/** The largest factor that a hand can draw. */
export const HIGHEST = 1.5;

/** Straight lines that a cosine is drawn with. */
const LINES = 24;
/** Values that a caption has room for. */
const TOLD = 5;

/** Of a smooth curve that is 1 throughout: what a first point is put into. */
const LEVEL: Curve = [
	{ at: 0, factor: 1, fade: 'cosine' },
	{ at: 1, factor: 1, fade: 'cosine' }
];

const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);

/** Keyframes of a recipe may be in any order. */
export const inOrder = (keyframes: Curve): Curve => keyframes.toSorted((a, b) => a.at - b.at);

/** Where a step stands, counted from 1. */
export const position = (step: number, steps: number) =>
	Math.max(step - 1, 0) / Math.max(steps - 1, 1);

/** The step nearest to a position, counted from 1. */
export const stepAt = (at: number, steps: number) =>
	Math.round(clamp(at, 0, 1) * Math.max(steps - 1, 0)) + 1;

/** A place where a step is taken; with a single step there is but one, so any will do. */
export const onStep = (at: number, steps: number) =>
	steps > 1 ? position(stepAt(at, steps), steps) : clamp(at, 0, 1);

/** The factor at a position: level before the first keyframe and behind the last. */
export function valueAt(curve: Curve, at: number): number {
	const behind = curve.findIndex((keyframe) => keyframe.at > at);
	const before = behind < 0 ? curve.at(-1) : curve[behind - 1];
	const after = behind < 0 ? undefined : curve[behind];
	if (!before) return after?.factor ?? 1;
	if (!after) return before.factor;
	const way = (at - before.at) / (after.at - before.at);
	return before.factor + (after.factor - before.factor) * shareOf(before.fade, way);
}

function shareOf(fade: FadeName, way: number): number {
	if (fade === 'hold') return 0;
	return fade === 'linear' ? way : (1 - Math.cos(Math.PI * way)) / 2;
}

/** The curve as a line of places from the first step to the last. */
export function outline(curve: Curve): Place[] {
	const [first, last] = [curve[0], curve.at(-1)];
	if (!first || !last) return LEVEL.map(({ at, factor }) => ({ at, factor }));
	const ways = curve.flatMap((from, index) => {
		const to = curve[index + 1];
		const { at, factor } = from;
		if (!to || from.fade === 'linear') return [{ at, factor }];
		if (from.fade === 'hold')
			return [
				{ at, factor },
				{ at: to.at, factor }
			];
		return Array.from({ length: LINES }, (_, line) => ({
			at: at + ((to.at - at) * line) / LINES,
			factor: factor + (to.factor - factor) * shareOf('cosine', line / LINES)
		}));
	});
	return [{ at: 0, factor: first.factor }, ...ways, { at: 1, factor: last.factor }];
}

/** "0.05 → 0.48 → 0.15": the weights that it goes through. */
export function caption(curve: Curve, weight: number): string {
	const weights = (curve.length > 0 ? curve : LEVEL).map(({ factor }) =>
		told(weight * factor).toFixed(2)
	);
	const passed = weights.filter((one, index) => one !== weights[index - 1]);
	if (passed.length === 1) return `${passed[0]} throughout`;
	const shown = passed.length > TOLD ? [...passed.slice(0, 2), '…', ...passed.slice(-2)] : passed;
	return shown.join(' → ');
}

/** Without the sign of a negative zero. */
const told = (weight: number) => (Math.abs(weight) < 0.005 ? 0 : weight);

/** Puts a point where it belongs; one that stands at that place already moves to it. */
export function withPoint(curve: Curve, { at, factor }: Place): { curve: Curve; index: number } {
	const whole = curve.length > 0 ? curve : LEVEL;
	const same = whole.findIndex((keyframe) => Math.abs(keyframe.at - at) < 1e-9);
	if (same >= 0) return { curve: moved(whole, same, { at, factor }), index: same };
	const behind = whole.findIndex((keyframe) => keyframe.at > at);
	const index = behind < 0 ? whole.length : behind;
	// The ways on both sides stay what the one way was.
	const fade = (whole[index - 1] ?? whole[index])?.fade ?? 'cosine';
	return { curve: whole.toSpliced(index, 0, { at, factor: drawn(factor), fade }), index };
}

/** A point in another place, between its neighbours: so the order is kept. */
export function moved(curve: Curve, index: number, { at, factor }: Place): Curve {
	const low = curve[index - 1]?.at ?? 0;
	const high = curve[index + 1]?.at ?? 1;
	return curve.map((keyframe, other) =>
		other === index ? { ...keyframe, at: clamp(at, low, high), factor: drawn(factor) } : keyframe
	);
}

export const withoutPoint = (curve: Curve, index: number): Curve => curve.toSpliced(index, 1);

export const faded = (curve: Curve, index: number, fade: FadeName): Curve =>
	curve.map((keyframe, other) => (other === index ? { ...keyframe, fade } : keyframe));

const drawn = (factor: number) => Number(clamp(factor, 0, HIGHEST).toFixed(3));

/** 1 from one step to another, both included and counted from 1; 0 at the others. */
export function between(
	start: number | undefined,
	stop: number | undefined,
	steps: number
): KeyframeParams[] {
	const hold = (at: number, factor: number): KeyframeParams => ({ at, factor, fade: 'hold' });
	const late = start !== undefined && start > 1;
	const keyframes = [hold(0, late ? 0 : 1)];
	if (late) keyframes.push(hold(position(start, steps), 1));
	if (stop !== undefined && stop < steps) keyframes.push(hold(position(stop + 1, steps), 0));
	return keyframes;
}

export const FADES: { fade: FadeName; name: string; tip: string }[] = [
	{ fade: 'cosine', name: 'Cosine', tip: 'slow at both ends' },
	{ fade: 'linear', name: 'Linear', tip: 'in a straight line' },
	{ fade: 'hold', name: 'Hold', tip: 'stays, and jumps' }
];

const half = (steps: number) => Math.max(Math.round(steps / 2), 1);

/** Curves that one often wants. */
export const SHAPES: { name: string; curve: (steps: number) => Curve }[] = [
	{ name: 'Throughout', curve: () => [] },
	{
		name: 'Fade in',
		curve: () => [
			{ at: 0, factor: 0, fade: 'cosine' },
			{ at: 1, factor: 1, fade: 'cosine' }
		]
	},
	{
		name: 'Fade out',
		curve: () => [
			{ at: 0, factor: 1, fade: 'cosine' },
			{ at: 1, factor: 0, fade: 'cosine' }
		]
	},
	{ name: 'First half', curve: (steps) => between(undefined, half(steps), steps) },
	{ name: 'Second half', curve: (steps) => between(half(steps) + 1, undefined, steps) },
	{
		name: 'Only the beginning',
		curve: (steps) => between(undefined, Math.max(Math.round(steps / 4), 1), steps)
	}
];
