/** Keys of the library; lib/shortcuts lists them. */

const OPEN = '[role=dialog], [role=alertdialog], [role=menu], [role=listbox][data-state=open]';
const WRITES = 'input, textarea, select, [contenteditable=true]';
const MOVES = '[role=slider], [role^=menu], [role=combobox]';

type Does = { at: number; act?: never } | { act: 'use' | 'none'; at?: never };

/** What a key means here, if anything. */
export function pressed(
	event: KeyboardEvent,
	grid: { way(key: string): number | null } | undefined
): Does | null {
	if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return null;
	if (document.querySelector(OPEN)) return null;
	const target = event.target instanceof Element ? event.target : document.body;
	if (target.matches(WRITES)) return null;
	const at = target.matches(MOVES) ? null : (grid?.way(event.key) ?? null);
	if (at !== null) return { at };
	if (event.key === 'Enter' && !target.closest('button, a, [role=button]')) return { act: 'use' };
	if (event.key === 'Escape') return { act: 'none' };
	return null;
}
