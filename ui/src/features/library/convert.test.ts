/** Converting a model, the offers of other programs' folders, and what cards say of a file. */
import { render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { describe, expect, it, vi } from 'vitest';
import type { ModelCard } from '$lib/ipc/types';
import { badgesOf } from './badges';
import PredictionNote from './PredictionNote.svelte';

const card = {
	id: 7,
	kind: 'checkpoint',
	name: 'dream',
	title: 'Dream',
	family: 'SD 1.x',
	summary: 'epsilon',
	precision: 'PyTorch file · f32',
	bytes: 4_265_000_000,
	note: { prediction: null, acceleration: null }
} as unknown as ModelCard;

describe('a card', () => {
	it('says family, prediction, precision and size, each once', () => {
		expect(badgesOf(card)).toEqual(['SD 1.x', 'epsilon', 'PyTorch file', 'f32', '4.3 GB']);
		const adapter = { ...card, kind: 'adapter', algorithm: 'LoRA', rank: [4, 8] } as ModelCard;
		expect(badgesOf(adapter)[1]).toBe('rank 4 to 8');
		expect(badgesOf({ ...card, family: null, precision: null })).toEqual(['epsilon', '4.3 GB']);
	});
});

describe('what a base model predicts', () => {
	it('can be said, and taken back', async () => {
		const onchange = vi.fn();
		const { rerender } = render(PredictionNote, { card, onchange });
		const choose = async (name: string) => {
			await userEvent.click(screen.getByTestId('prediction-note'));
			await userEvent.click(await screen.findByRole('option', { name: new RegExp(name) }));
		};
		await choose('Velocity');
		expect(onchange).toHaveBeenLastCalledWith('v_prediction');
		const said = { ...card, note: { ...card.note, prediction: 'v_prediction' } } as ModelCard;
		await rerender({ card: said, onchange });
		await choose('As its file says');
		expect(onchange).toHaveBeenLastCalledWith(null);
	});
});
