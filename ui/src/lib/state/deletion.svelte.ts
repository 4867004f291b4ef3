/** Deleting pictures: asks where the settings say so or there is no trash, and offers Undo. */
import { ipc, IpcError } from '$lib/ipc/client';
import type { Toasts } from './toasts.svelte';

interface Question {
	ids: number[];
	/** There is no trash: they would be gone for good. */
	forGood: boolean;
}

export class Deletion {
	#question = $state.raw<Question | null>(null);
	#toasts: Toasts;
	#asksFirst: () => boolean;

	/** Before pictures go: whoever shows them lets go. */
	ondelete: ((ids: number[]) => void) | null = null;

	constructor(toasts: Toasts, asksFirst: () => boolean) {
		this.#toasts = toasts;
		this.#asksFirst = asksFirst;
	}

	/** To be answered by the person; `null`: nothing is asked. */
	get question(): Question | null {
		return this.#question;
	}

	ask(ids: number[]) {
		if (ids.length === 0) return;
		if (this.#asksFirst()) this.#question = { ids, forGood: false };
		else void this.#delete(ids, false);
	}

	answer(yes: boolean) {
		const question = this.#question;
		this.#question = null;
		if (yes && question) void this.#delete(question.ids, question.forGood);
	}

	async #delete(ids: number[], forGood: boolean) {
		try {
			const { undo, count } = await ipc.deleteImages(ids, forGood);
			this.ondelete?.(ids);
			const message = `${count === 1 ? 'The picture is' : `${count} pictures are`} ${forGood ? 'deleted' : 'in the trash'}.`;
			this.#toasts.show({
				message,
				...(undo !== null && {
					action: {
						label: 'Undo',
						run: () => void ipc.undoDelete(undo).catch((error) => this.#toasts.fail(error))
					}
				})
			});
		} catch (error) {
			if (error instanceof IpcError && error.failure.code === 'no_trash') {
				this.#question = { ids, forGood: true };
			} else {
				this.#toasts.fail(error);
			}
		}
	}
}
