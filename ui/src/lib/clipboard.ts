/** Text onto the clipboard. */

/**
 * The text may still be on its way: a webview allows writing only right after a press, so the
 * promise itself is handed over where that is possible.
 */
export async function copyText(text: string | Promise<string>) {
	if (typeof ClipboardItem === 'undefined') {
		return navigator.clipboard.writeText(await text);
	}
	const blob = Promise.resolve(text).then((words) => new Blob([words], { type: 'text/plain' }));
	await navigator.clipboard.write([new ClipboardItem({ 'text/plain': blob })]);
}
