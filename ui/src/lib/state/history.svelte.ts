/** Undo and redo: one entry for each gesture. */

/** Changes of one kind that follow each other this closely are one gesture: typing, held arrow keys. */
const PAUSE = 800;
const DEPTH = 200;

export class History<T> {
	#past = $state.raw<T[]>([]);
	#future = $state.raw<T[]>([]);
	#take: () => T;
	#put: (state: T) => void;

	/** What was there before the gesture under way; `null`: none is. */
	#before: { state: T } | null = null;
	#touched = false;
	#kind = '';
	#at = -PAUSE;

	constructor(take: () => T, put: (state: T) => void) {
		this.#take = take;
		this.#put = put;
	}

	get canUndo() {
		return this.#past.length > 0;
	}

	get canRedo() {
		return this.#future.length > 0;
	}

	/** A gesture begins: whatever changes until `end` is one entry. */
	begin() {
		this.end();
		this.#before = { state: this.#take() };
	}

	end() {
		if (this.#before && this.#touched) this.#push(this.#before.state);
		this.#before = null;
		this.#touched = false;
		this.#at = -PAUSE;
	}

	/** Makes a change that can be undone. */
	record(kind: string, change: () => void) {
		if (this.#before) {
			this.#touched = true;
			return change();
		}
		const now = performance.now();
		if (kind !== this.#kind || now - this.#at > PAUSE) this.#push(this.#take());
		this.#kind = kind;
		this.#at = now;
		change();
	}

	undo() {
		this.#step('past');
	}

	redo() {
		this.#step('future');
	}

	#push(state: T) {
		this.#past = [...this.#past, state].slice(-DEPTH);
		this.#future = [];
	}

	#step(to: 'past' | 'future') {
		this.end();
		const [from, other] = to === 'past' ? [this.#past, this.#future] : [this.#future, this.#past];
		const state = from.at(-1);
		if (!state) return;
		const now = this.#take();
		if (to === 'past') {
			this.#past = from.slice(0, -1);
			this.#future = [...other, now];
		} else {
			this.#future = from.slice(0, -1);
			this.#past = [...other, now];
		}
		this.#put(state);
	}
}
