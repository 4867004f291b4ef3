import { render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { describe, expect, it, vi } from 'vitest';
import type { ModelCard } from '$lib/ipc/types';
import ModelTitle from './ModelTitle.svelte';
import TriggerWords from './TriggerWords.svelte';

const card = {
	name: 'ink',
	title: 'Ink Drawing',
	trigger_words: ['ink drawing style', 'ink'],
	note: {
		title: null,
		trigger_words: ['ink'],
		default_weight: null,
		pigment: null,
		prediction: null,
		acceleration: null
	}
} as unknown as ModelCard;

describe('trigger words', () => {
	it('are added with Enter or a comma, each once, and taken away by their chip', async () => {
		const onchange = vi.fn();
		render(TriggerWords, { card, onchange });
		const field = screen.getByLabelText('Add trigger words');
		await userEvent.type(field, 'wash{Enter}');
		expect(onchange).toHaveBeenLastCalledWith(['ink drawing style', 'ink', 'wash']);
		await userEvent.type(field, 'ink,');
		expect(onchange).toHaveBeenCalledTimes(1);
		await userEvent.click(screen.getByLabelText('Take “ink” away'));
		expect(onchange).toHaveBeenLastCalledWith(['ink drawing style']);
		await userEvent.click(screen.getByText('the file’s'));
		expect(onchange).toHaveBeenLastCalledWith(null);
	});
});

describe('a title', () => {
	it('is kept with Enter, left alone with Escape, and the file’s own when nothing is written', async () => {
		const onchange = vi.fn();
		render(ModelTitle, { card, onchange });
		const edit = async (keys: string) => {
			await userEvent.click(screen.getByTestId('model-title'));
			await userEvent.keyboard(keys);
		};
		await edit('Ink 2{Enter}');
		expect(onchange).toHaveBeenLastCalledWith('Ink 2');
		await edit('Nonsense{Escape}');
		await edit('{Enter}');
		expect(onchange).toHaveBeenCalledTimes(1);
		await edit('{Backspace}{Enter}');
		expect(onchange).toHaveBeenLastCalledWith(null);
	});
});
