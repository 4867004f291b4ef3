/** The keys of the window. What is listed under `?` is in lib/shortcuts. */
import type { Studio } from '$lib/state/studio.svelte';

/** What lies over the window and closes by itself on Escape. */
const OPEN = '[role=dialog], [role=alertdialog], [role=menu], [role=listbox][data-state=open]';

const writes = (target: EventTarget | null) =>
	target instanceof HTMLElement &&
	(target.isContentEditable || target.matches('input, textarea, select'));

const isCovered = () => document.querySelector(OPEN) !== null;

/**
 * Ctrl+Enter makes a picture wherever the focus is. It is heard on its way down: a menu's button would take it for
 * Enter, and open.
 */
export function pressedFirst(studio: Studio, event: KeyboardEvent) {
	if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || isCovered()) return;
	event.preventDefault();
	event.stopPropagation();
	void studio.generate();
}

export function pressed(studio: Studio, event: KeyboardEvent) {
	if (event.defaultPrevented || event.altKey) return;
	const covered = isCovered();
	const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
	const done =
		event.ctrlKey || event.metaKey
			? withControl(studio, key, event.shiftKey, covered)
			: !covered &&
				((studio.view.tab === 'studio' && sheet(studio, key, event)) ||
					plain(studio, key, event) ||
					(studio.view.tab === 'studio' && easel(studio, key, event)));
	if (done) event.preventDefault();
}

export function released(studio: Studio, event: KeyboardEvent) {
	if (event.key.toLowerCase() === 'c') studio.easel.compare(false);
}

function withControl(studio: Studio, key: string, shift: boolean, covered: boolean): boolean {
	const { generation, view } = studio;
	if (covered) return false;
	switch (key) {
		case 'z':
			if (shift) generation.history.redo();
			else generation.history.undo();
			return true;
		case 'y':
			generation.history.redo();
			return true;
		case '1':
			view.go('studio');
			return true;
		case '2':
			view.go('gallery');
			return true;
		case '3':
			view.go('library');
			return true;
		case ',':
			view.open('settings');
			return true;
		default:
			return false;
	}
}

function plain(studio: Studio, key: string, event: KeyboardEvent): boolean {
	const { view, easel, blend, queue, toasts } = studio;
	if (key === 'Escape') {
		if (view.drawer) view.toggleDrawer(false);
		else if (view.tab === 'studio' && blend.open) blend.toggle(false);
		else if (easel.split) easel.endSplit();
		else if (view.tab === 'studio' && easel.running) {
			queue.cancel(easel.running.id).catch((error) => toasts.fail(error));
		} else return false;
		return true;
	}
	if (writes(event.target)) return false;
	if (key === '?') {
		view.open('shortcuts');
		return true;
	}
	return false;
}

/** Keys of the sheet on the easel, before all others. */
function sheet(studio: Studio, key: string, event: KeyboardEvent): boolean {
	const { sheets, view, blend } = studio;
	// What lies on the easel closes first.
	if (key === 'Escape' && blend.open) return false;
	if (!sheets.shown || view.drawer || writes(event.target)) return false;
	switch (key) {
		case 'ArrowLeft':
			sheets.move(-1, 0);
			return true;
		case 'ArrowRight':
			sheets.move(1, 0);
			return true;
		case 'ArrowUp':
			sheets.move(0, 1);
			return true;
		case 'ArrowDown':
			sheets.move(0, -1);
			return true;
		case 'Enter':
			// A button that has the focus does what it says.
			if (event.target instanceof HTMLButtonElement) return false;
			if (sheets.near) void studio.takeCell();
			else sheets.setNear(true);
			return true;
		case 'Escape':
			if (sheets.near) sheets.setNear(false);
			else sheets.close();
			return true;
		case 't':
			void studio.takeCell();
			return true;
		// These are about the picture that stands behind the sheet.
		case 'c':
		case 'r':
		case 'Delete':
			return true;
		default:
			return false;
	}
}

/** Keys of the studio view. */
function easel(studio: Studio, key: string, event: KeyboardEvent): boolean {
	const { easel, generation, blend, live, view, recents, deletion, sheets } = studio;
	if (writes(event.target)) return false;
	const image = easel.image;
	switch (key) {
		case 'a':
			view.openAdd();
			return true;
		case 'b':
			if (blend.reason === null) blend.toggle();
			return true;
		case 'p':
			document.querySelector<HTMLElement>('[data-testid=prompt]')?.focus();
			return true;
		case 'l':
			live.toggle();
			return true;
		case 'd':
			generation.set({ seed: studio.randomSeed() });
			return true;
		case 'k':
			generation.set({ seed_locked: !generation.numbers.seed_locked });
			return true;
		case 'n':
			view.toggleDrawer();
			return true;
		case 's':
			sheets.compose();
			return true;
		case 'c':
			easel.compare(true);
			return true;
		case 'f':
			easel.setZoom(null);
			return true;
		case '1':
			easel.setZoom(1);
			return true;
		case '+':
		case '=':
			easel.zoomBy(1.25);
			return true;
		case '-':
			easel.zoomBy(0.8);
			return true;
		case 'ArrowLeft':
		case 'ArrowRight': {
			const next = recents.beside(image?.id ?? null, key === 'ArrowLeft' ? -1 : 1);
			if (next) easel.show(next);
			return next !== undefined;
		}
		case 'r':
			if (image?.params) void studio.restore(image.params, 'all');
			return image?.params != null;
		case 'Delete':
			if (image) deletion.ask([image.id]);
			return image !== null;
		default:
			return false;
	}
}
