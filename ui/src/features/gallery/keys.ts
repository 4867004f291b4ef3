/** Keys of the gallery; lib/shortcuts lists them. */
import type { Gallery } from '$lib/state/gallery.svelte';
import type { Actions } from './actions';

/** What lies over the view and has keys of its own. */
const OPEN = '[role=dialog], [role=alertdialog], [role=menu], [role=listbox][data-state=open]';
/** Where letters are written, and arrows move something else. */
const WRITES = 'input, textarea, select, [contenteditable=true]';
const MOVES = `${WRITES}, [role=slider], [role^=menu], [role=radio]`;

interface Grid {
	way(key: string): number | null;
	reveal(at: number): void;
}

/** Whether the key was one of the gallery's. */
export function pressed(
	event: KeyboardEvent,
	gallery: Gallery,
	actions: Actions,
	grid: Grid | undefined
): boolean {
	if (event.defaultPrevented || event.altKey || document.querySelector(OPEN)) return false;
	const target = event.target instanceof Element ? event.target : document.body;
	if (target.matches(WRITES)) return false;
	const ctrl = event.ctrlKey || event.metaKey;
	const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;

	const at = target.matches(MOVES) ? null : (grid?.way(key) ?? null);
	if (at !== null) {
		if (!gallery.ids.length) return false;
		gallery.pick(at, { extend: event.shiftKey, toggle: ctrl && event.shiftKey });
		grid?.reveal(at);
		return true;
	}
	if (ctrl && key === 'a') {
		gallery.selection.all();
		return true;
	}
	if (key === 'Escape') {
		if (gallery.selection.count === 0) return false;
		gallery.selection.clear();
		return true;
	}
	if (gallery.selection.count === 0) return false;
	if (key === 'c') {
		// Words that were marked are what Ctrl+C means.
		if (ctrl && getSelection()?.toString()) return false;
		actions.copyPicture();
		return true;
	}
	if (ctrl) return false;
	switch (key) {
		case 'Enter':
		case ' ':
			if (target.closest('button, a, [role=button]')) return false;
			gallery.showFull(true);
			return true;
		case 'f':
			actions.favourite();
			return true;
		case 'Delete':
		case 'Backspace':
			actions.remove();
			return true;
		default:
			return false;
	}
}
