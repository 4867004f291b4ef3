import { describe, expect, it } from 'vitest';
import { combine, COMFORTABLE, factors, loudness, scaled, weighs, type Acting } from './strength';

const BLOCKS = 28;

const layer = (weight: number, part: Partial<Acting> = {}): Acting => ({
	unet_weight: weight,
	text_encoder_weight: weight,
	...part
});

/** Products of adapters that change every block alike, from their Gram matrix. */
const even = (gram: number[][]) =>
	gram.map((row) => row.map((g) => Array(BLOCKS).fill(g / BLOCKS)));

const APART = [
	[1, 0],
	[0, 1]
];
const ALIKE = [
	[1, 1],
	[1, 1]
];

it('weighs something in one network or another', () => {
	expect(weighs(layer(0))).toBe(false);
	expect(weighs(layer(0, { text_encoder_2_weight: 0 }))).toBe(false);
	expect(weighs(layer(0, { text_encoder_2_weight: -0.2 }))).toBe(true);
	expect(weighs(layer(0, { unet_weight: 0.1 }))).toBe(true);
});

describe('what a block is multiplied by', () => {
	it('is the weight of its network', () => {
		const by = factors({ unet_weight: 0.5, text_encoder_weight: 0.2, text_encoder_2_weight: 0.1 });
		expect(by).toHaveLength(BLOCKS);
		expect([by[0], by[1], by[13], by[25], by[26], by[27]]).toEqual([0.2, 0.5, 0.5, 0.5, 0.5, 0.1]);
		expect(factors({ unet_weight: 1, text_encoder_weight: 0.3 })[27]).toBe(0.3);
	});

	it('has the factor of its block, the text encoders’ for both of them, none for the rest', () => {
		const blocks = Array.from({ length: 26 }, (_, at) => at + 2);
		const by = factors(layer(1, { blocks }));
		expect([by[0], by[1], by[13], by[25], by[26], by[27]]).toEqual([2, 3, 15, 27, 1, 2]);
	});

	it('has the largest factor over the steps, in the UNet only', () => {
		const over_steps = [0.2, 0.8, 0].map((factor, at) => ({
			at: at / 2,
			factor,
			fade: 'linear' as const
		}));
		const by = factors(layer(0.5, { over_steps }));
		expect([by[0], by[1], by[26], by[27]]).toEqual([0.5, 0.4, 0.4, 0.5]);
		expect(factors(layer(0.5, { over_steps: [] }))[1]).toBe(0.5);
	});
});

describe('combined strength', () => {
	it('is the weight of a single layer', () => {
		const { strength, parts } = combine([layer(0.7)], even([[4]]));
		expect(strength).toBeCloseTo(0.7);
		expect(parts).toEqual([1]);
		expect(combine([layer(-0.7)], even([[4]])).strength).toBeCloseTo(0.7);
	});

	it('adds up layers that pull the same way, and crosses those that do not', () => {
		expect(combine([layer(1), layer(1)], even(ALIKE)).strength).toBeCloseTo(2);
		expect(combine([layer(1), layer(1)], even(APART)).strength).toBeCloseTo(Math.SQRT2);
		const against = combine([layer(1), layer(-1)], even(ALIKE));
		expect(against.strength).toBe(0);
		expect(against.parts).toEqual([0, 0]);
	});

	it('is told in layers like the largest', () => {
		const gram = [
			[9, 0],
			[0, 1]
		];
		expect(combine([layer(1), layer(0)], even(gram)).strength).toBeCloseTo(1);
		expect(combine([layer(0), layer(1)], even(gram)).strength).toBeCloseTo(1 / 3);
	});

	it('is each layer’s part, what takes away none', () => {
		const { parts } = combine([layer(1), layer(0.5)], even(APART));
		expect(parts[0]).toBeCloseTo(0.8);
		expect(parts[1]).toBeCloseTo(0.2);
		expect(combine([layer(1), layer(-0.5)], even(ALIKE)).parts).toEqual([1, 0]);
	});

	it('weighs block by block', () => {
		const only = (block: number) => [
			[Array.from({ length: BLOCKS }, (_, at) => Number(at === block))]
		];
		const split = { unet_weight: 0.3, text_encoder_weight: 0.9 };
		expect(combine([split], only(0)).strength).toBeCloseTo(0.9);
		expect(combine([split], only(8)).strength).toBeCloseTo(0.3);
	});

	it('is 0 of nothing, and of adapters that change nothing', () => {
		expect(combine([], [])).toEqual({ strength: 0, parts: [] });
		expect(combine([layer(1)], even([[0]]))).toEqual({ strength: 0, parts: [0] });
		expect(combine([layer(1)], [[[]]])).toEqual({ strength: 0, parts: [0] });
	});
});

describe('the word for a strength', () => {
	it('goes by what is shown', () => {
		expect([0, 0.49, 0.5, 1.5, 1.504, 1.51].map(loudness)).toEqual([
			'quiet',
			'quiet',
			'comfortable',
			'comfortable',
			'comfortable',
			'strong'
		]);
	});
});

describe('weights that are scaled', () => {
	it('have two digits, towards 0', () => {
		expect(scaled({ unet_weight: 1, text_encoder_weight: -0.5 }, 2 / 3)).toEqual({
			unet_weight: 0.66,
			text_encoder_weight: -0.33
		});
		expect(scaled(layer(0.8, { text_encoder_2_weight: 0.4 }), 0.75)).toEqual({
			unet_weight: 0.6,
			text_encoder_weight: 0.6,
			text_encoder_2_weight: 0.3
		});
	});

	it('bring a strong stack to the limit', () => {
		const stack = [layer(1.3), layer(1.1, { text_encoder_weight: 0.6 })];
		const before = combine(stack, even(ALIKE)).strength;
		const after = combine(
			stack.map((one) => scaled(one, COMFORTABLE / before)),
			even(ALIKE)
		).strength;
		expect(before).toBeGreaterThan(COMFORTABLE);
		expect(loudness(after)).toBe('comfortable');
		expect(after).toBeCloseTo(COMFORTABLE, 1);
	});
});
