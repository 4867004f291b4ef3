/** Which view is in front, and what lies over it. */

export type Tab = 'studio' | 'gallery' | 'library';
export type DialogName = 'settings' | 'shortcuts';

export interface SavedView {
	tab: Tab;
	more: boolean;
}

export class View {
	#tab = $state<Tab>('studio');
	#dialog = $state<DialogName | null>(null);
	#drawer = $state(false);
	#more = $state(false);
	#adding = $state(false);

	/** How high the words at the bottom of the studio are, in pixels: messages stay above them. */
	wordsHeight = $state(0);

	/** The studio saves the session after each change. */
	onchange: (() => void) | null = null;

	get tab() {
		return this.#tab;
	}

	get dialog() {
		return this.#dialog;
	}

	/** The numbers and the queue, in a narrow window. */
	get drawer() {
		return this.#drawer;
	}

	/** Whether the rarer numbers are shown. */
	get more() {
		return this.#more;
	}

	/** The list of adapters that fit is open. */
	get adding() {
		return this.#adding;
	}

	openAdd(open = true) {
		this.#adding = open;
	}

	go(tab: Tab) {
		this.#tab = tab;
		this.#dialog = null;
		this.#drawer = false;
		this.onchange?.();
	}

	open(dialog: DialogName) {
		this.#dialog = dialog;
	}

	close() {
		this.#dialog = null;
	}

	toggleDrawer(open = !this.#drawer) {
		this.#drawer = open;
	}

	toggleMore() {
		this.#more = !this.#more;
		this.onchange?.();
	}

	save(): SavedView {
		return { tab: this.#tab, more: this.#more };
	}

	load(saved: Partial<SavedView> | undefined) {
		if (saved?.tab && ['studio', 'gallery', 'library'].includes(saved.tab)) this.#tab = saved.tab;
		this.#more = saved?.more === true;
	}
}
