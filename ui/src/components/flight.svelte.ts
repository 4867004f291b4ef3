/** Whether a list is scrolled so fast that nobody sees what is in it. */

/** In pixels a second. */
const TOO_FAST = 6_000;
const LANDED = 90;
/** After a rest the first movement is a jump, not a speed. */
const REST = 400;

export class Flight {
	#flying = $state(false);
	#last = { top: 0, at: 0 };
	#landing: ReturnType<typeof setTimeout> | undefined;

	get flying() {
		return this.#flying;
	}

	/** `now` in milliseconds, as events have it. */
	watch(top: number, now: number) {
		const { top: before, at } = this.#last;
		const since = now - at;
		const speed = (Math.abs(top - before) / Math.max(since, 8)) * 1_000;
		this.#last = { top, at: now };
		if (speed > TOO_FAST && since < REST) this.#flying = true;
		clearTimeout(this.#landing);
		if (this.#flying) this.#landing = setTimeout(() => (this.#flying = false), LANDED);
	}
}
