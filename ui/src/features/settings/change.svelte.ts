/** Changing a setting, and why that did not work: shown at the field that was changed. */
import { IpcError } from '$lib/ipc/client';
import type { Settings } from '$lib/ipc/types';
import type { SettingsState } from '$lib/state/settings.svelte';

export class Change {
	#settings: SettingsState;
	#errors = $state.raw<Partial<Record<string, string>>>({});

	constructor(settings: SettingsState) {
		this.#settings = settings;
	}

	/** What is wrong with a field. */
	error(field: keyof Settings | 'log'): string | null {
		return this.#errors[field] ?? null;
	}

	set(patch: Partial<Settings>) {
		const field = Object.keys(patch)[0] as keyof Settings;
		return this.trying(field, () => this.#settings.set(patch));
	}

	async trying(field: keyof Settings | 'log', what: () => Promise<unknown>) {
		this.#errors = { ...this.#errors, [field]: undefined };
		try {
			await what();
		} catch (error) {
			const words =
				error instanceof IpcError
					? `${error.failure.message} ${error.failure.hint ?? ''}`.trim()
					: String(error);
			this.#errors = { ...this.#errors, [field]: words };
		}
	}
}
