import { fireEvent, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { describe, expect, it, vi } from 'vitest';
import type { Curve } from '$lib/curve';
import BlockBars from './BlockBars.svelte';
import CurveField from './CurveField.svelte';

const CURVE: Curve = [
	{ at: 0, factor: 0, fade: 'linear' },
	{ at: 6 / 19, factor: 0.6, fade: 'cosine' },
	{ at: 1, factor: 1, fade: 'hold' }
];

describe('a drawn curve', () => {
	const shown = (curve = CURVE) => {
		const onchange = vi.fn<(curve: Curve) => void>();
		render(CurveField, { label: 'Curve', curve, steps: 20, weight: 0.8, touched: 0, onchange });
		return onchange;
	};

	it('says of each point where it is, how much, and how it goes on', () => {
		shown();
		expect(
			screen.getAllByRole('slider').map((point) => point.getAttribute('aria-valuetext'))
		).toEqual([
			'at step 1 of 20, weight 0.00, linear to the next',
			'at step 7 of 20, weight 0.48, cosine to the next',
			'at step 20 of 20, weight 0.80, the last point'
		]);
	});

	it('is moved by its keys, step by step and further', async () => {
		const onchange = shown();
		const user = userEvent.setup();
		screen.getByRole('slider', { name: 'Point 2 of 3' }).focus();
		await user.keyboard('{ArrowRight}{ArrowUp}{Shift>}{ArrowLeft}{ArrowDown}{/Shift}');
		expect(onchange.mock.calls.map(([curve]) => curve[1])).toEqual([
			{ at: 7 / 19, factor: 0.6, fade: 'cosine' },
			{ at: 6 / 19, factor: 0.65, fade: 'cosine' },
			{ at: 1 / 19, factor: 0.6, fade: 'cosine' },
			{ at: 6 / 19, factor: 0.35, fade: 'cosine' }
		]);
	});

	it('gains and loses points, and the window does not hear of the key', async () => {
		const onchange = shown();
		const second = screen.getByRole('slider', { name: 'Point 2 of 3' });
		expect(await fireEvent.keyDown(second, { key: 'Delete' })).toBe(false);
		expect(onchange.mock.lastCall?.[0]).toEqual([CURVE[0], CURVE[2]]);
		expect(await fireEvent.keyDown(second, { key: 'Insert' })).toBe(false);
		expect(onchange.mock.lastCall?.[0]).toHaveLength(4);
		expect(await fireEvent.keyDown(second, { key: 'x' })).toBe(true);
	});
});

describe('drawn blocks', () => {
	const bar = (index: number, name: string, factor: number, hollow = false) => ({
		index,
		name,
		part: index ? 'in' : 'text',
		factor,
		hollow,
		tip: name
	});

	it('are changed and gone through by their keys, without those that change nothing', async () => {
		const onchange = vi.fn<(factors: ReadonlyMap<number, number>) => void>();
		const bars = [bar(0, 'TE', 1), bar(1, 'IN00', 1, true), bar(2, 'IN01', 0.5)];
		render(BlockBars, { label: 'Blocks', bars, onchange });
		const user = userEvent.setup();
		await user.tab();
		expect(screen.getByRole('slider', { name: 'TE' })).toHaveFocus();
		await user.keyboard('{ArrowDown}{ArrowRight}{ArrowUp}{End}');
		expect(screen.getByRole('slider', { name: 'IN01' })).toHaveFocus();
		expect(onchange.mock.calls.map(([factors]) => [...factors])).toEqual([
			[[0, 0.95]],
			[[2, 0.55]],
			[[2, 1.5]]
		]);
		expect(screen.getByRole('slider', { name: 'IN00' })).toHaveAttribute('aria-disabled', 'true');
	});
});
