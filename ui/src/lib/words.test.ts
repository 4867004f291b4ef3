import { describe, expect, it } from 'vitest';
import { preset } from './blocks';
import { splitTags, type Tag } from './words';

const tag = (name: string, textEncoderWeight: number, weight: number, more: Partial<Tag> = {}) => ({
	name,
	weight,
	textEncoderWeight,
	...more
});

const split = (text: string) => splitTags(text, (name) => name !== 'unknown');

describe('tags of adapters', () => {
	it('have weights by their places and by their names', () => {
		const cases: [string, Tag][] = [
			['<lora:ink>', tag('ink', 1, 1)],
			['<lora:ink:0.5>', tag('ink', 0.5, 0.5)],
			['<lora:ink:0.5:0.25>', tag('ink', 0.5, 0.25)],
			['<lyco:ink:-1>', tag('ink', -1, -1)],
			['<lora:ink:te=0.5>', tag('ink', 0.5, 0.5)],
			['<lora:ink:unet=0.5>', tag('ink', 1, 0.5)],
			['<lora:ink:1:unet=0.3:te=0.2>', tag('ink', 0.2, 0.3)],
			['<lora:te=0.2:ink>', tag('ink', 0.2, 0.2)],
			['<lora:My LoRA v1.2 (final):0.7>', tag('My LoRA v1.2 (final)', 0.7, 0.7)]
		];
		for (const [text, expected] of cases) {
			expect(split(text), text).toEqual({ text: '', tags: [expected], odd: [] });
		}
	});

	it('have blocks, steps and ranks', () => {
		const blocks = preset('OUTALL') ?? [];
		const list = '1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1';
		const cases: [string, Tag][] = [
			['<lora:x:1:OUTALL>', tag('x', 1, 1, { blocks })],
			['<lora:x:1:0.8:lbw=OUTALL>', tag('x', 1, 0.8, { blocks })],
			[`<lora:x:0.5:${list}>`, tag('x', 0.5, 0.5, { blocks })],
			[`<lora:w=${list}:x>`, tag('x', 1, 1, { blocks })],
			['<lora:x:1:1:8>', tag('x', 1, 1, { rankLimit: 8 })],
			['<lora:x:1:dyn=4>', tag('x', 1, 1, { rankLimit: 4 })],
			['<lora:x:1:start=3:stop=9>', tag('x', 1, 1, { start: 3, stop: 9 })],
			['<lora:x:1:step=3-9>', tag('x', 1, 1, { start: 3, stop: 9 })],
			['<lora:x:te2=0.3:0.5>', tag('x', 0.5, 0.5, { textEncoder2Weight: 0.3 })]
		];
		for (const [text, expected] of cases) {
			expect(split(text), text).toEqual({ text: '', tags: [expected], odd: [] });
		}
	});

	it('say what has no effect', () => {
		const cases: [string, string][] = [
			['<lora:x:1:OUT>', 'OUT'],
			['<lora:x:1:lbw=1,2,3>', 'lbw=1,2,3'],
			['<lora:x:1:lbwe=IN01>', 'lbwe=IN01'],
			['<lora:x:1:step=4>', 'step=4'],
			['<lora:x:1:start=R>', 'start=R'],
			['<lora:x:1:dyn=0>', 'dyn=0']
		];
		for (const [text, odd] of cases) {
			expect(split(text), text).toEqual({ text: '', tags: [tag('x', 1, 1)], odd: [odd] });
		}
	});

	it('stay where no adapter is known, or where they are none', () => {
		for (const text of [
			'<lora:unknown:1>',
			'<lora:x:abc>',
			'<lora:x:te2=abc>',
			'<lora::1>',
			'<lora:x:nan>',
			'<hypernet:x:1>',
			'a < b',
			'<lora:>'
		]) {
			expect(split(text), text).toEqual({ text, tags: [], odd: [] });
		}
	});

	it('leave a tidy prompt', () => {
		const { text, tags } = split('a <lora:x:1>fox, <lora:y:0.5:0.2>, on ice <lora:unknown>');
		expect(text).toBe('a fox, on ice <lora:unknown>');
		expect(tags).toEqual([tag('x', 1, 1), tag('y', 0.5, 0.2)]);
	});
});
