import { mockIPC } from '@tauri-apps/api/mocks';
import { describe, expect, it } from 'vitest';
import type { Settings } from '$lib/ipc/types';
import { SettingsState } from './settings.svelte';

const SETTINGS: Settings = {
	theme: 'system',
	output_folder: null,
	model_folders: [],
	device: 'cpu',
	threads: null,
	model_memory: null,
	notify: true,
	previews: true,
	confirm_delete: false
};

describe('the settings', () => {
	it('hold at once, and go back when they cannot be kept, without what was changed since', async () => {
		let refuse: (failure: unknown) => void = () => undefined;
		mockIPC((_, payload) => {
			const { settings } = payload as { settings: Settings };
			if (settings.output_folder && settings.theme === 'system') {
				return new Promise((_, reject) => (refuse = reject));
			}
		});
		const settings = new SettingsState(SETTINGS);
		const failing = settings.set({ output_folder: 'nowhere' });
		expect(settings.current.output_folder).toBe('nowhere');
		await settings.set({ theme: 'dark' });
		refuse({
			code: 'unknown',
			field: 'output_folder',
			message: 'It cannot be written.',
			hint: null
		});
		await expect(failing).rejects.toThrow('It cannot be written.');
		expect(settings.current).toEqual({ ...SETTINGS, theme: 'dark' });
	});
});
