/** Adding to the library through the system's dialogs. */
import { ipc } from '$lib/ipc/client';
import type { Studio } from '$lib/state/studio.svelte';

/** The same as dropping them onto the window. */
export async function addFiles({ drop, toasts }: Studio) {
	try {
		await drop.drop(await ipc.chooseFiles('models'));
	} catch (error) {
		toasts.fail(error);
	}
}

/** A folder of another program: it is read and watched, never written. Throws an IpcError. */
export async function addFolder({ settings }: Studio) {
	const folder = await ipc.chooseFolder();
	const { model_folders } = settings.current;
	if (folder === null || model_folders.includes(folder)) return;
	await settings.set({ model_folders: [...model_folders, folder] });
}

/** Off the list; no file is touched. */
export async function removeFolder({ settings, toasts }: Studio, path: string, name: string) {
	const { model_folders } = settings.current;
	await settings.set({ model_folders: model_folders.filter((other) => other !== path) });
	toasts.show({
		message: `“${name}” is off the list. Its files stay where they are.`,
		action: {
			label: 'Undo',
			run: () => void settings.set({ model_folders }).catch((error) => toasts.fail(error))
		}
	});
}
