/** Counting tokens: asked when the typing pauses, and anew where adapters bring other words. */
import { mockIPC } from '@tauri-apps/api/mocks';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Tokens } from './tokens.svelte';

let questions: unknown[] = [];

beforeEach(() => {
	vi.useFakeTimers();
	questions = [];
	mockIPC((command, payload) => {
		questions.push([command, payload]);
		return { used: 3, total: 3, limit: 75, ends: [] };
	});
});

afterEach(() => vi.useRealTimers());

it('asks once for the last of what was typed, with the adapters in use', async () => {
	const tokens = new Tokens();
	tokens.ask(1, [], 'a f');
	tokens.ask(1, [7], 'a fox');
	await vi.advanceTimersByTimeAsync(1000);
	expect(questions).toEqual([['count_tokens', { checkpoint: 1, adapters: [7], text: 'a fox' }]]);
	expect(tokens.count?.total).toBe(3);
	tokens.ask(1, [7], 'a fox');
	await vi.advanceTimersByTimeAsync(1000);
	expect(questions).toHaveLength(1);
	tokens.ask(1, [7, 8], 'a fox');
	await vi.advanceTimersByTimeAsync(1000);
	expect(questions).toHaveLength(2);
});
