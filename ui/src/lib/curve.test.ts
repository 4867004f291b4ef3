import { describe, expect, it } from 'vitest';
import type { FadeName } from '$lib/ipc/types';
import {
	between,
	caption,
	inOrder,
	moved,
	onStep,
	outline,
	position,
	SHAPES,
	stepAt,
	valueAt,
	withoutPoint,
	withPoint,
	type Curve
} from './curve';

const keyframe = (at: number, factor: number, fade: FadeName) => ({ at, factor, fade });

// The same keyframes and numbers as in the engine's own test.
const CURVE = inOrder([
	keyframe(0.75, 0.5, 'hold'),
	keyframe(0.25, 0, 'linear'),
	keyframe(0.5, 1, 'cosine'),
	keyframe(1, 2, 'linear')
]);

describe('a curve', () => {
	it('meets its keyframes and joins them as the engine does', () => {
		const expected = [
			[0, 0],
			[0.25, 0],
			[0.375, 0.5],
			[0.5, 1],
			[0.625, 0.75],
			[0.75, 0.5],
			[0.99, 0.5],
			[1, 2]
		] as const;
		for (const [at, factor] of expected) expect(valueAt(CURVE, at)).toBeCloseTo(factor, 12);
		expect(valueAt(CURVE, 0.5625)).toBeCloseTo(1 - (1 - Math.cos(Math.PI / 4)) / 4, 12);
		expect(valueAt([], 0.3)).toBe(1);
	});

	it('counts steps from one', () => {
		const factors = (start: number | undefined, stop: number | undefined, steps: number) =>
			Array.from({ length: steps }, (_, at) =>
				valueAt(between(start, stop, steps), position(at + 1, steps))
			);
		expect(factors(3, 4, 6)).toEqual([0, 0, 1, 1, 0, 0]);
		expect(factors(undefined, 1, 3)).toEqual([1, 0, 0]);
		expect(factors(2, undefined, 3)).toEqual([0, 1, 1]);
		expect(factors(undefined, 9, 3)).toEqual([1, 1, 1]);
		expect(factors(9, undefined, 3)).toEqual([0, 0, 0]);
		expect(factors(undefined, undefined, 1)).toEqual([1]);
		for (let step = 1; step <= 20; step++) expect(stepAt(position(step, 20), 20)).toBe(step);
		expect(onStep(0.34, 20)).toBe(6 / 19);
		expect(onStep(0.34, 1)).toBe(0.34);
	});

	it('is drawn through what it is', () => {
		for (const { at, factor } of outline(CURVE).slice(0, -1)) {
			// Where it jumps it has two values.
			if (at < 1) expect(valueAt(CURVE, at)).toBeCloseTo(factor, 9);
		}
		expect(outline([keyframe(0.5, 0.4, 'cosine')])).toEqual([
			{ at: 0, factor: 0.4 },
			{ at: 0.5, factor: 0.4 },
			{ at: 1, factor: 0.4 }
		]);
		expect(outline([]).map(({ factor }) => factor)).toEqual([1, 1]);
	});

	it('says which weights it goes through', () => {
		const drawn = [
			keyframe(0, 0.1, 'cosine'),
			keyframe(0.4, 1, 'cosine'),
			keyframe(0.7, 1, 'cosine'),
			keyframe(1, 0.3125, 'cosine')
		] as const;
		expect(caption(drawn, 0.48)).toBe('0.05 → 0.48 → 0.15');
		expect(caption([], 0.48)).toBe('0.48 throughout');
		expect(caption([keyframe(0, 0, 'hold')], -1)).toBe('0.00 throughout');
		const many = Array.from({ length: 8 }, (_, at) => keyframe(at / 7, at / 8, 'linear'));
		expect(caption(many, 1)).toBe('0.00 → 0.13 → … → 0.75 → 0.88');
	});

	it('takes points in order, and its first with two ends', () => {
		const first = withPoint([], { at: 0.5, factor: 0.2 });
		expect(first.index).toBe(1);
		expect(first.curve.map(({ at, factor }) => [at, factor])).toEqual([
			[0, 1],
			[0.5, 0.2],
			[1, 1]
		]);
		const more = withPoint(CURVE, { at: 0.6, factor: 9 });
		expect(more.index).toBe(2);
		expect(more.curve[2]).toEqual(keyframe(0.6, 1.5, 'cosine'));
		expect(withPoint(CURVE, { at: 0.5, factor: 0.3 })).toEqual({
			index: 1,
			curve: CURVE.with(1, keyframe(0.5, 0.3, 'cosine'))
		});
		expect(withPoint([keyframe(0.5, 1, 'linear')], { at: 0.2, factor: 0 }).index).toBe(0);
	});

	it('moves points between their neighbours, and lets them go', () => {
		expect(moved(CURVE, 1, { at: 0.9, factor: -1 })[1]).toEqual(keyframe(0.75, 0, 'cosine'));
		expect(moved(CURVE, 0, { at: -1, factor: 0.5 })[0]).toEqual(keyframe(0, 0.5, 'linear'));
		expect(withoutPoint(CURVE, 1).map(({ at }) => at)).toEqual([0.25, 0.75, 1]);
	});

	it('has shapes that are often wanted', () => {
		const values = (name: string, steps: number) => {
			const curve = SHAPES.find((shape) => shape.name === name)?.curve(steps) as Curve;
			return Array.from({ length: steps }, (_, at) => valueAt(curve, position(at + 1, steps)));
		};
		expect(values('Throughout', 3)).toEqual([1, 1, 1]);
		expect(values('First half', 4)).toEqual([1, 1, 0, 0]);
		expect(values('Second half', 4)).toEqual([0, 0, 1, 1]);
		expect(values('Only the beginning', 8)).toEqual([1, 1, 0, 0, 0, 0, 0, 0]);
		expect(values('Fade in', 3)).toEqual([0, expect.closeTo(0.5, 9), 1]);
		expect(values('Fade out', 3)).toEqual([1, expect.closeTo(0.5, 9), 0]);
	});
});
