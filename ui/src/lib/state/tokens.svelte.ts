/**
 * How many tokens a text is, and where its chunks end. Asked when the typing pauses. Adapters in use may
 * bring words that are longer than they look.
 */
import { ipc } from '$lib/ipc/client';
import type { TokenCount } from '$lib/ipc/types';

const PAUSE = 150;

export class Tokens {
	#count = $state.raw<TokenCount | null>(null);
	#asked = '';
	#timer: ReturnType<typeof setTimeout> | undefined;

	get count(): TokenCount | null {
		return this.#count;
	}

	ask(checkpoint: number | null, adapters: number[], text: string) {
		const question = `${checkpoint} ${adapters} ${text}`;
		if (question === this.#asked) return;
		this.#asked = question;
		clearTimeout(this.#timer);
		this.#timer = setTimeout(async () => {
			try {
				const count = await ipc.countTokens(checkpoint, adapters, text);
				if (question === this.#asked) this.#count = count;
			} catch {
				// Without a ground nobody can count; the number is only a hint.
				this.#count = null;
			}
		}, PAUSE);
	}
}
