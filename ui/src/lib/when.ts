/** Points in time as people say them. */

const clock = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const day = new Intl.DateTimeFormat(undefined, {
	day: 'numeric',
	month: 'long',
	year: 'numeric'
});

/** "today 14:02", "yesterday 9:30", "3 May 2026 9:30"; from milliseconds since 1970. */
export function when(at: number, now = Date.now()): string {
	const midnight = new Date(now).setHours(0, 0, 0, 0);
	const before = new Date(midnight).setDate(new Date(midnight).getDate() - 1);
	const time = clock.format(at);
	if (at >= midnight) return `today ${time}`;
	if (at >= before) return `yesterday ${time}`;
	return `${day.format(at)} ${time}`;
}

/** "3 May 2026". */
export const onDay = (at: number) => day.format(at);
