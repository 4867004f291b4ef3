/** What one can do with the selected pictures; what fails has no place of its own but a toast. */
import { copyText } from '$lib/clipboard';
import { ipc } from '$lib/ipc/client';
import type { Studio } from '$lib/state/studio.svelte';

export type Actions = ReturnType<typeof actionsOf>;

export function actionsOf({ gallery, deletion, toasts }: Studio) {
	const { selection } = gallery;
	const fail = (error: unknown) => toasts.fail(error);
	const said = (message: string) => () => toasts.show({ message });
	/** The one that keys and buttons for a single picture mean. */
	const one = () => (selection.count > 0 ? selection.active : null);

	return {
		favourite: () => void gallery.toggleFavourite().catch(fail),

		remove: () => deletion.ask(selection.ordered),

		copyPicture() {
			const id = one();
			if (id === null) return;
			ipc.copyImage(id).then(said('The picture is on the clipboard.'), fail);
		},

		copyRecipe() {
			const id = one();
			if (id === null) return;
			copyText(ipc.recipeText(id)).then(said('The recipe is on the clipboard.'), fail);
		},

		showFile() {
			const id = one();
			if (id !== null) ipc.showImage(id).catch(fail);
		},

		/** The system takes over from the mouse button that is down: all that is selected, or this one. */
		drag(id: number) {
			ipc.dragImages(selection.has(id) ? selection.ordered : [id]).catch(fail);
		}
	};
}
