/** What has no place of its own to be said at. */
import { IpcError } from '$lib/ipc/client';

export interface Toast {
	id: number;
	message: string;
	hint: string | null;
	action: { label: string; run: () => void } | null;
}

interface Message {
	message: string;
	hint?: string | null;
	action?: { label: string; run: () => void };
}

/** Long enough to read two sentences, and longer where there is something to press. */
const READING = 6_000;
const DECIDING = 12_000;
const AT_ONCE = 3;

export class Toasts {
	#list = $state.raw<Toast[]>([]);
	#held = false;
	#next = 1;

	get list(): readonly Toast[] {
		return this.#list;
	}

	show({ message, hint = null, action }: Message) {
		const id = this.#next++;
		const toast: Toast = {
			id,
			message,
			hint,
			action: action
				? {
						label: action.label,
						run: () => {
							this.dismiss(id);
							action.run();
						}
					}
				: null
		};
		// The same words twice are one message that stays longer.
		const others = this.#list.filter((other) => other.message !== message || action);
		this.#list = [...others, toast].slice(-AT_ONCE);
		this.#expire(id, action ? DECIDING : READING);
	}

	/** A command that failed and has no place to show it. */
	fail(error: unknown) {
		if (error instanceof IpcError) {
			const { code, message, hint } = error.failure;
			if (code !== 'cancelled') this.show({ message, hint });
		} else {
			this.show({
				message: 'Something in the window went wrong.',
				hint: error instanceof Error ? error.message : String(error)
			});
		}
	}

	dismiss(id: number) {
		this.#list = this.#list.filter((toast) => toast.id !== id);
	}

	/** While the pointer or the focus is on a toast, none goes. */
	hold(held: boolean) {
		this.#held = held;
	}

	#expire(id: number, after: number) {
		setTimeout(() => (this.#held ? this.#expire(id, 1_000) : this.dismiss(id)), after);
	}
}
