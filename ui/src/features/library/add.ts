/** Adding to the library through the system's dialogs. */
import { ipc } from '$lib/ipc/client';
import type { Studio } from '$lib/state/studio.svelte';

/** The same as dropping them onto the window; the first that is new comes to the front. */
export async function addFiles({ drop, library, toasts }: Studio) {
	try {
		const before = new Set(library.cards.map((card) => card.id));
		await drop.drop(await ipc.chooseFiles('models'));
		const added = library.cards.find((card) => !before.has(card.id));
		if (added) library.shelf.reveal(added);
	} catch (error) {
		toasts.fail(error);
	}
}

/** A folder of another program: it is read and watched, never written. Throws an IpcError. */
export async function addFolder(studio: Studio) {
	const folder = await ipc.chooseFolder();
	if (folder !== null) await addThis(studio, folder);
}

/** The same without a dialog. */
export async function addThis({ settings }: Studio, folder: string) {
	const { model_folders } = settings.current;
	if (model_folders.includes(folder)) return;
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
