/** Numbers as people read them. */
import type { Catalog, Choice, SizeParams, Suggestion } from '$lib/ipc/types';

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'];

/** "27 MB", "4.3 GB". */
export function bytes(count: number): string {
	let unit = 0;
	while (count >= 1000 && unit < UNITS.length - 1) {
		count /= 1000;
		unit += 1;
	}
	return `${count.toFixed(count < 10 && unit > 0 ? 1 : 0)} ${UNITS[unit]}`;
}

const WORDS = ['no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'];

/** "one layer", "two layers", "12 layers". */
export function counted(count: number, thing: string): string {
	return `${WORDS[count] ?? count} ${thing}${count === 1 ? '' : 's'}`;
}

/** "1.9 s", "2 min 5 s". */
export function duration(seconds: number): string {
	if (seconds < 60) return `${seconds.toFixed(1)} s`;
	return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** A list with its parts told apart by a middle dot; what is missing is left out. */
export function dotted(...parts: (string | null | undefined | false)[]): string {
	return parts.filter(Boolean).join(' · ');
}

/** "640 × 480, cut 0, 16": what SDXL is told where it is not the picture’s size. */
export function sizesOf({ original, crop, target }: SizeParams): string {
	return dotted(
		original && `${original[0]} × ${original[1]}`,
		(crop[0] > 0 || crop[1] > 0) && `cut ${crop[0]}, ${crop[1]}`,
		target && `for ${target[0]} × ${target[1]}`
	);
}

/** What a person calls a sampler or schedule. */
export const nameOf = (choices: readonly Choice[], id: string) =>
	choices.find((choice) => choice.id === id)?.name ?? id;

/** "4 steps, guidance 1, LCM, SGM uniform": the numbers that a distilled model cares for. */
export function fewNumbers(
	{ steps, guidance_scale, sampler, schedule }: Omit<Suggestion, 'name'>,
	{ samplers, schedules }: Catalog
): string {
	const count = `${steps} ${steps === 1 ? 'step' : 'steps'}`;
	return [
		count,
		`guidance ${guidance_scale}`,
		nameOf(samplers, sampler),
		nameOf(schedules, schedule)
	].join(', ');
}
