/** The arithmetic of a grid of equal cells: how many fit, which are in sight, where a key leads. */

export interface Layout {
	columns: number;
	/** Width of a cell; its height is `row` less the gap. */
	cell: number;
	/** From the top of one row to the top of the next. */
	row: number;
	/** Height of all rows. */
	height: number;
}

/** Cells of at least `least` pixels, wider where that fills the width. */
export function layOut(
	count: number,
	width: number,
	least: number,
	gap: number,
	heightOf: (cell: number) => number
): Layout {
	const columns = Math.max(Math.floor((width + gap) / (least + gap)), 1);
	const cell = Math.max((width - (columns - 1) * gap) / columns, 1);
	const row = Math.round(heightOf(cell)) + gap;
	return { columns, cell, row, height: Math.max(Math.ceil(count / columns) * row - gap, 0) };
}

/** The places from `first` to before `end` are in sight, and `spare` rows above and below. */
export function inSight(
	{ columns, row }: Layout,
	count: number,
	top: number,
	height: number,
	spare: number
): [number, number] {
	const first = Math.max(Math.floor(top / row) - spare, 0);
	const end = Math.ceil((top + height) / row) + spare;
	return [Math.min(first * columns, count), Math.min(end * columns, count)];
}

/** Where a key leads from a place; -1 is before all of them, `null` a key that leads nowhere. */
export function leadsTo(
	key: string,
	at: number,
	count: number,
	columns: number,
	rows: number
): number | null {
	const last = count - 1;
	if (last < 0) return null;
	const down = (by: number) => {
		const next = at + by * columns;
		if (next > last) return Math.floor(at / columns) < Math.floor(last / columns) ? last : at;
		return next < 0 ? at % columns : next;
	};
	const ways: Record<string, () => number> = {
		ArrowLeft: () => Math.max(at - 1, 0),
		ArrowRight: () => Math.min(at + 1, last),
		ArrowUp: () => down(-1),
		ArrowDown: () => down(1),
		PageUp: () => down(-rows),
		PageDown: () => down(rows),
		Home: () => 0,
		End: () => last
	};
	const way = ways[key];
	if (!way) return null;
	return at < 0 ? (key === 'End' ? last : 0) : way();
}
