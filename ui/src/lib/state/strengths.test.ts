/** Asking for the strength of a stack: as seldom as can be, and never believing an answer that is late. */
import { mockIPC } from '@tauri-apps/api/mocks';
import { beforeEach, describe, expect, it } from 'vitest';
import { Strengths } from './strengths.svelte';

interface Question {
	checkpoint: number;
	adapters: number[];
	answer: () => void;
	fail: (code: string) => void;
}

let questions: Question[] = [];
let strengths: Strengths;

/** Each product tells which pair it is of. */
const answerOf = (adapters: number[]) => ({
	adapters: adapters.map((adapter) => ({
		adapter,
		relative: 0.01,
		without_effect: 0,
		problem: adapter === 3 ? 'It holds numbers that are none.' : null
	})),
	products: adapters.map((a) => adapters.map((b) => [a * 10 + b]))
});

beforeEach(() => {
	questions = [];
	strengths = new Strengths();
	mockIPC((_, payload) => {
		const { checkpoint, adapters } = payload as { checkpoint: number; adapters: number[] };
		return new Promise((resolve, reject) =>
			questions.push({
				checkpoint,
				adapters,
				answer: () => resolve(answerOf(adapters)),
				fail: (code) => reject({ code, field: null, message: 'It failed.', hint: null })
			})
		);
	});
});

describe('the strength of a stack', () => {
	it('is asked for once, and again only for what is new', async () => {
		const asked = strengths.ask(1, [2, 3]);
		void strengths.ask(1, [3, 2]);
		expect(strengths.among([2])).toBeNull();
		questions[0]?.answer();
		await asked;
		expect(strengths.among([3, 2])).toEqual([
			[[33], [32]],
			[[23], [22]]
		]);
		expect(strengths.problemOf(3)).toContain('none');
		expect(strengths.problemOf(2)).toBeNull();
		// One less needs no question.
		await strengths.ask(1, [3]);
		expect(strengths.among([3])).toEqual([[[33]]]);
		expect(questions).toHaveLength(1);
		void strengths.ask(1, [3, 4]);
		expect(questions[1]?.adapters).toEqual([3, 4]);
		expect(strengths.among([3, 4])).toBeNull();
		// Until the new one is there, the old ones are known.
		expect(strengths.among([2, 3])).not.toBeNull();
	});

	it('begins anew on another ground, and with another library', async () => {
		const first = strengths.ask(1, [2]);
		questions[0]?.answer();
		await first;
		const again = strengths.ask(1, [2], true);
		expect(strengths.among([2])).not.toBeNull();
		questions[1]?.answer();
		await again;
		void strengths.ask(5, [2]);
		expect(strengths.among([2])).toBeNull();
		expect(questions.map(({ checkpoint }) => checkpoint)).toEqual([1, 1, 5]);
	});

	it('does not come from answers and failures that are late', async () => {
		const first = strengths.ask(1, [2]);
		const second = strengths.ask(1, [2, 3]);
		questions[1]?.answer();
		await second;
		questions[0]?.answer();
		await first;
		expect(strengths.among([2, 3])).not.toBeNull();
		const third = strengths.ask(1, [4]);
		const fourth = strengths.ask(1, [4, 5]);
		questions[2]?.fail('unknown');
		questions[3]?.answer();
		await Promise.all([third, fourth]);
		expect(strengths.failed).toBe(false);
	});

	it('passes over questions that a later one ended, and tells other failures once', async () => {
		const ended = strengths.ask(1, [2]);
		questions[0]?.fail('cancelled');
		await ended;
		expect(strengths.failed).toBe(false);
		const failing = strengths.ask(1, [2, 3]);
		questions[1]?.fail('missing_file');
		await expect(failing).rejects.toThrow('It failed.');
		expect(strengths.failed).toBe(true);
		await strengths.ask(1, [2, 3]);
		expect(questions).toHaveLength(2);
	});
});
