// A person at the window: starts the program on a screen of its own, looks, types, clicks and drags.
//
// WebDriver (through WebKitWebDriver) for what happens in the page, X11 for what happens outside it:
// files that are dragged onto the window, and the window's own cross. Whatever is started here is a
// process group and ends with `stop`.
import { spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const REPOSITORY = join(HERE, '../..');
const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';

/** Keys as WebDriver spells them. */
export const KEY = {
	control: '\uE009',
	enter: '\uE007',
	escape: '\uE00C',
	left: '\uE012',
	right: '\uE014',
	down: '\uE015',
	backspace: '\uE003'
};

/** Asks until the answer is truthy. */
export async function until(what, ask, seconds = 20) {
	const deadline = Date.now() + seconds * 1000;
	let last;
	for (;;) {
		try {
			const answer = await ask();
			if (answer) return answer;
			last = undefined;
		} catch (error) {
			last = error;
		}
		if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`, { cause: last });
		await sleep(50);
	}
}

/** Everything that runs during a test, on a screen that nobody sees. */
export class Desk {
	#groups = new Set();
	#folder;
	#environment = {};
	display = '';

	/** `folder` is the person's home, and where the programs' output goes. */
	static async open(folder, { width = 1920, height = 1080 } = {}) {
		const desk = new Desk();
		desk.#folder = folder;
		const home = join(folder, 'home');
		await mkdir(home, { recursive: true });
		desk.#environment = { HOME: home, XDG_RUNTIME_DIR: home };
		const screen = desk.#start(
			'Xvfb',
			['-displayfd', '3', '-screen', '0', `${width}x${height}x24`, '-nolisten', 'tcp', '-noreset'],
			{ stdio: [undefined, undefined, undefined, 'pipe'] }
		);
		const number = await new Promise((resolve, reject) => {
			screen.on('error', reject);
			screen.on('exit', (code) => reject(new Error(`Xvfb ended with ${code}`)));
			screen.stdio[3].once('data', (data) => resolve(String(data).trim()));
		});
		desk.display = `:${number}`;
		return desk;
	}

	/** Ends everything, even what does not want to end. */
	stop() {
		for (const group of this.#groups) this.#kill(group);
		this.#groups.clear();
	}

	/** Starts a program as a group of its own; what it prints goes into a file, never into a pipe. */
	#start(program, args, { stdio = [], env = {} } = {}) {
		const log = openSync(join(this.#folder, 'output.log'), 'a');
		const child = spawn(program, args, {
			cwd: REPOSITORY,
			detached: true,
			env: { ...process.env, ...this.#environment, DISPLAY: this.display, ...env },
			stdio: ['ignore', log, log, ...stdio.slice(3)]
		});
		this.#groups.add(child.pid);
		return child;
	}

	#kill(group, signal = 'SIGKILL') {
		try {
			process.kill(-group, signal);
		} catch {
			// It has ended.
		}
	}

	/** Runs a program to its end; its exit status. */
	async run(program, ...args) {
		const child = this.#start(program, args);
		const code = await new Promise((resolve, reject) => {
			child.on('error', reject);
			child.on('exit', resolve);
		});
		this.#groups.delete(child.pid);
		return code;
	}

	async #tell(...args) {
		const code = await this.run(...args);
		if (code !== 0) throw new Error(`\`${args.join(' ')}\` ended with ${code}`);
	}

	mouse(...args) {
		return this.#tell('xdotool', ...args.map(String));
	}

	/** Presses the window's cross. */
	pressCross(title) {
		return this.#tell('/usr/bin/python3', join(HERE, 'close.py'), title);
	}

	/**
	 * Drags files from another window to (x, y), waits there for `hovering`, and lets go.
	 * The other window is in the upper left corner of the screen.
	 *
	 * On a busy machine the hand may let go before the window has answered its last movement; then the
	 * desktop takes the files back, and one tries again.
	 */
	async dragFiles(paths, to, hovering) {
		for (let tries = 3; ; tries -= 1) {
			if (await this.#dragOnce(paths, to, hovering)) return;
			if (tries === 1) throw new Error(`nobody took ${paths.join(', ')}`);
		}
	}

	async #dragOnce(paths, [x, y], hovering) {
		const source = this.#start('/usr/bin/python3', [join(HERE, 'drag.py'), ...paths]);
		let ended = null;
		source.on('exit', (code) => (ended = { taken: code === 0 }));
		try {
			await sleep(700);
			await this.mouse('mousemove', 60, 60, 'sleep', 0.1, 'mousedown', 1, 'sleep', 0.1);
			const steps = 12;
			for (let step = 1; step <= steps; step += 1) {
				const at = (to) => Math.round(60 + ((to - 60) * step) / steps);
				await this.mouse('mousemove', at(x), at(y), 'sleep', 0.03);
			}
			await hovering();
			await sleep(300);
			await this.mouse('mouseup', 1);
			return (await until('the drag has ended', () => ended)).taken;
		} finally {
			await this.run('xdotool', 'mouseup', '1');
			this.#kill(source.pid);
			this.#groups.delete(source.pid);
		}
	}

	/**
	 * A picture of a part of the screen, if ImageMagick is there. WebDriver's own waits for ever now and
	 * then: while files hover, and after they were dropped.
	 */
	async photograph(path, { x, y, width, height }) {
		await mkdir(dirname(path), { recursive: true });
		const part = `${width}x${height}+${x}+${y}`;
		await this.run('import', '-window', 'root', '-crop', part, '+repage', path).catch(() => {});
	}

	/** Starts the program, through a driver of its own. */
	async program(binary, ...args) {
		const port = await freePort();
		const driver = this.#start('WebKitWebDriver', [`--port=${port}`, '--host=127.0.0.1'], {
			env: { TAURI_WEBVIEW_AUTOMATION: 'true', WEBKIT_DISABLE_DMABUF_RENDERER: '1' }
		});
		const page = new Page(port, () => {
			this.#kill(driver.pid);
			this.#groups.delete(driver.pid);
		});
		await page.begin(binary, args);
		return page;
	}
}

function freePort() {
	return new Promise((resolve, reject) => {
		const server = createServer();
		server.on('error', reject);
		server.listen(0, '127.0.0.1', () => {
			const { port } = server.address();
			server.close(() => resolve(port));
		});
	});
}

/** The page in the window. Elements are found by CSS selectors. */
export class Page {
	#root;
	#session = '';
	#end;

	constructor(port, end) {
		this.#root = `http://127.0.0.1:${port}`;
		this.#end = end;
	}

	async #call(method, path, body, signal) {
		const response = await fetch(this.#root + path, {
			method,
			body: body && JSON.stringify(body),
			signal: signal ?? AbortSignal.timeout(20_000)
		}).catch((cause) => {
			throw new Error(`no answer to ${method} ${path}`, { cause });
		});
		const { value } = await response.json();
		if (value?.error) throw new Error(`${value.error}: ${value.message}`);
		return value;
	}

	#ask(method, path, body) {
		return this.#call(method, `/session/${this.#session}${path}`, body);
	}

	async begin(binary, args) {
		await until('the driver', () => this.#call('GET', '/status'));
		const options = { binary, args };
		const { sessionId } = await this.#call('POST', '/session', {
			capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': options } }
		});
		this.#session = sessionId;
	}

	/** Ends the program and its driver, whatever state they are in. */
	async end() {
		const path = `/session/${this.#session}`;
		await this.#call('DELETE', path, undefined, AbortSignal.timeout(5000)).catch(() => {});
		this.#end();
	}

	async find(css, seconds) {
		const ask = () => this.#ask('POST', '/element', { using: 'css selector', value: css });
		return (await until(css, ask, seconds))[ELEMENT];
	}

	async count(css) {
		const found = await this.#ask('POST', '/elements', { using: 'css selector', value: css });
		return found.length;
	}

	/** Waits until nothing matches. */
	async gone(css, seconds) {
		await until(`${css} is gone`, async () => (await this.count(css)) === 0, seconds);
	}

	/** Clicks, as soon as nothing lies over it. */
	async click(css) {
		const click = async () => {
			await this.#ask('POST', `/element/${await this.find(css)}/click`, {});
			return true;
		};
		await until(`a click on ${css}`, click);
	}

	/** Its text as it is laid out: WebDriver's own leaves out what is cut off with an ellipsis. */
	async text(css) {
		await this.find(css);
		return this.run((css) => document.querySelector(css)?.innerText ?? '', css);
	}

	async attribute(css, name) {
		return this.#ask('GET', `/element/${await this.find(css)}/attribute/${name}`);
	}

	/** Presses keys one after another where the focus is; those before `+` stay down. */
	async press(...keys) {
		const events = (type, all) => [...all].map((value) => ({ type, value }));
		const actions = keys.flatMap((chord) => {
			const parts = chord.split('+');
			return [...events('keyDown', parts), ...events('keyUp', parts.toReversed())];
		});
		await this.#ask('POST', '/actions', { actions: [{ type: 'key', id: 'keys', actions }] });
	}

	async type(text) {
		await this.press(...text);
	}

	/** Runs a function in the page. */
	run(work, ...args) {
		return this.#ask('POST', '/execute/sync', { script: `return (${work})(...arguments)`, args });
	}

	/** Where the page is on the screen. */
	async place() {
		return this.#ask('GET', '/window/rect');
	}

	/** What axe-core has to say against the page: a line for each fault. */
	async faults() {
		const axe = await readFile(join(REPOSITORY, 'ui/node_modules/axe-core/axe.min.js'), 'utf8');
		const script = `const done = arguments[arguments.length - 1];
			if (!window.axe) { ${axe} }
			window.axe.run(document, { preload: false, resultTypes: ['violations'],
				runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })
				.then(({ violations }) => done(violations.flatMap(({ id, help, nodes }) =>
					nodes.map(({ target, failureSummary }) => [id, help, target.join(' '), failureSummary].join(' · ')))),
					(error) => done(['axe failed: ' + error]));`;
		return this.#ask('POST', '/execute/async', { script, args: [] });
	}
}
