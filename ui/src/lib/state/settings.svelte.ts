/** The settings: a change holds at once, and is taken back when it cannot be kept. */
import { ipc } from '$lib/ipc/client';
import type { Event, Settings } from '$lib/ipc/types';

export class SettingsState {
	#current = $state.raw<Settings>() as Settings;
	#asked = 0;

	constructor(settings: Settings) {
		this.#current = settings;
	}

	get current(): Settings {
		return this.#current;
	}

	async set(patch: Partial<Settings>) {
		const before = this.#current;
		const mine = ++this.#asked;
		this.#current = { ...before, ...patch };
		try {
			await ipc.setSettings(this.#current);
		} catch (error) {
			// A later change stands on this one: only what was set here goes back.
			const old = Object.fromEntries(
				Object.keys(patch).map((key) => [key, before[key as keyof Settings]])
			);
			this.#current = mine === this.#asked ? before : { ...this.#current, ...old };
			throw error;
		}
	}

	handle(event: Event) {
		if (event.event === 'settings') this.#current = event.data;
		if (event.event === 'snapshot') this.#current = event.data.settings;
	}
}
