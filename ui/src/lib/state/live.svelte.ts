/**
 * Live: while the switch is on, each change asks for a frame. The newest wish wins, so wishes go out
 * at most once per animation frame; with fewer steps while something changes, in full at rest.
 */
import { ipc } from '$lib/ipc/client';
import type { Event, GenerationParams, Live as LiveReport } from '$lib/ipc/types';

/** After the last change, the hand counts as resting. */
const REST = 250;

const OFF: LiveReport = {
	state: 'off',
	revision: null,
	wish: 0,
	full: false,
	seconds: null,
	reason: null,
	error: null
};

export class Live {
	#on = $state(false);
	#report = $state.raw<LiveReport>(OFF);

	#params: () => GenerationParams;
	#fail: (error: unknown) => void;
	#wish = 0;
	#frame = 0;
	#rest: ReturnType<typeof setTimeout> | undefined;

	constructor(params: () => GenerationParams, fail: (error: unknown) => void) {
		this.#params = params;
		this.#fail = fail;
	}

	get on() {
		return this.#on;
	}

	get report(): LiveReport {
		return this.#report;
	}

	/** What to say beside the switch; `null`: nothing. */
	get status(): string | null {
		if (!this.#on) return null;
		const { state, reason, error, seconds, full } = this.#report;
		if (state === 'waiting') return reason ?? 'Waiting for the queue.';
		if (state === 'failed') return error?.message ?? 'The frame could not be made.';
		if (state === 'rendering') return 'Painting';
		if (state === 'shown' && full && seconds !== null) return `${seconds.toFixed(1)} s`;
		return null;
	}

	toggle(on = !this.#on) {
		if (on === this.#on) return;
		this.#on = on;
		if (on) {
			this.#ask(false);
		} else {
			this.#stopTimers();
			this.#report = OFF;
			ipc.liveOff().catch(this.#fail);
		}
	}

	/** Something changed: of the stack, the words or the numbers. */
	touch() {
		if (!this.#on) return;
		this.#frame ||= requestAnimationFrame(() => {
			this.#frame = 0;
			this.#ask(true);
		});
		clearTimeout(this.#rest);
		this.#rest = setTimeout(() => {
			cancelAnimationFrame(this.#frame);
			this.#frame = 0;
			this.#ask(false);
		}, REST);
	}

	handle(event: Event) {
		if (event.event === 'live') this.#report = this.#on ? event.data : OFF;
	}

	#ask(moving: boolean) {
		this.#wish += 1;
		ipc.live(this.#params(), this.#wish, moving).catch(this.#fail);
	}

	#stopTimers() {
		cancelAnimationFrame(this.#frame);
		clearTimeout(this.#rest);
		this.#frame = 0;
	}
}
