import { describe, expect, it } from 'vitest';
import { fullList, numberOf, partOf, preset, PRESETS, readBlocks, writeBlocks } from './blocks';

const NAMES = [
	'TE',
	...Array.from({ length: 12 }, (_, at) => `IN${String(at).padStart(2, '0')}`),
	'MID',
	...Array.from({ length: 12 }, (_, at) => `OUT${String(at).padStart(2, '0')}`)
];

/** The blocks that a list does not leave out. */
const kept = (list: readonly number[] | null) =>
	NAMES.filter((_, place) => list?.[place] === 1).join(' ');

const ones = (length: number) => fullList(Array<number>(length).fill(1));

describe('lists of blocks', () => {
	it('of 12, 17, 20 and 26 numbers have the blocks that the extension gives them', () => {
		expect(kept(ones(12))).toBe('TE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05');
		expect(kept(ones(17))).toBe(
			'TE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11'
		);
		expect(kept(ones(20))).toBe(
			'TE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08'
		);
		expect(kept(ones(26))).toBe(NAMES.join(' '));
		expect(ones(13)).toBeNull();
	});

	it('have names', () => {
		expect(kept(preset('INS'))).toBe('TE IN01 IN02 IN04');
		expect(kept(preset('ind'))).toBe('TE IN05 IN07 IN08');
		expect(kept(preset('INALL'))).toBe('TE IN01 IN02 IN04 IN05 IN07 IN08');
		expect(kept(preset('MIDD'))).toBe('TE IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06');
		expect(kept(preset('OUTD'))).toBe('TE OUT03 OUT04 OUT05 OUT06');
		expect(kept(preset('OUTS'))).toBe('TE OUT07 OUT08 OUT09 OUT10 OUT11');
		expect(kept(preset(' OutAll '))).toBe(
			'TE OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11'
		);
		expect(preset('ALL0.5')?.filter((factor) => factor === 0.5)).toHaveLength(17);
		expect(preset('NONE')).toEqual(Array(26).fill(0));
		expect(preset('OUT')).toBeNull();
		for (const { name, list } of PRESETS) expect(list, name).toHaveLength(17);
	});

	it('are read as they are pasted, and say what is wrong with them', () => {
		expect(readBlocks('outall')).toEqual({ blocks: preset('OUTALL') });
		expect(readBlocks(' 1, 0.5,0,0,0,0,0,-1,.5,0,0,1e-1 \n')).toMatchObject({
			blocks: expect.arrayContaining([1, 0.5, -1, 0.1])
		});
		const whole = Array.from({ length: 26 }, (_, at) => at / 4);
		expect(readBlocks(writeBlocks(whole))).toEqual({ blocks: whole });
		expect(readBlocks(`[${writeBlocks(whole)}]`)).toEqual({ blocks: whole });
		expect(readBlocks('1,2,3')).toEqual({
			problem: 'These are 3 numbers. A list has 12, 17, 20 or 26.'
		});
		expect(readBlocks('1')).toEqual({
			problem: 'It is one number. A list has 12, 17, 20 or 26.'
		});
		expect(readBlocks('1,x,3')).toMatchObject({ problem: expect.stringContaining('“x”') });
		expect(readBlocks('1,,3')).toMatchObject({ problem: expect.stringContaining('missing') });
	});

	it('are of numbers as the program reads them', () => {
		expect([' 0.5 ', '-1', '.5', '1e-3', '+2'].map(numberOf)).toEqual([0.5, -1, 0.5, 0.001, 2]);
		expect(['', ' ', '0x10', 'NaN', 'Infinity', '1,0', '--1'].map(numberOf)).toEqual(
			Array(7).fill(null)
		);
	});

	it('know where a block lies', () => {
		expect([0, 1, 12, 13, 14, 25, 26, 27].map(partOf)).toEqual([
			'text',
			'in',
			'in',
			'middle',
			'out',
			'out',
			'other',
			'text'
		]);
	});
});
