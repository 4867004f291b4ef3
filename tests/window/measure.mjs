// How quick the real window is: with the starter alone, and with a gallery and a library of many years.
//
//   node tests/window/measure.mjs starter            starting, the frames while sampling, Live
//   node tests/window/measure.mjs make FOLDER        a data folder of 100,000 pictures and 2,000 adapters
//   node tests/window/measure.mjs large FOLDER       starting, scrolling and searching in it
//
// The program's path in IMPASTO_STUDIO: a release build. Needs what the window test needs; `make` needs
// sqlite3. Figures of a screen without a graphics card are those of software that draws it.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cp, link, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Desk, KEY, until } from './driver.mjs';
import { pngTexts } from './files.mjs';

const PROGRAM = resolve(process.env.IMPASTO_STUDIO ?? 'target/release/impasto-studio');
const STARTER = join(dirname(fileURLToPath(import.meta.url)), '../../assets/starter');
const PICTURES = Number(process.env.PICTURES ?? 100_000);
const ADAPTERS = Number(process.env.ADAPTERS ?? 2_000);
const STARTS = 7;

const id = (name) => `[data-testid=${name}]`;

function quantiles(numbers) {
	const sorted = numbers.toSorted((a, b) => a - b);
	const at = (share) => sorted[Math.min(Math.floor(share * sorted.length), sorted.length - 1)];
	return { p50: at(0.5), p95: at(0.95), max: sorted.at(-1) };
}

function tell(what, numbers) {
	const { p50, p95, max } = quantiles(numbers);
	const ms = (number) => `${number.toFixed(number < 100 ? 1 : 0)} ms`;
	const load = loadavg()[0].toFixed(1);
	console.log(
		`${what}: median ${ms(p50)}, 95th percentile ${ms(p95)}, longest ${ms(max)} ` +
			`(${numbers.length} values, load ${load})`
	);
}

/** When the process that has this data folder was started, in milliseconds since 1970. */
async function startOf(data) {
	for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
		const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
		const program = await readlink(`/proc/${pid}/exe`).catch(() => '');
		if (!words.split('\0').includes(data) || basename(program) !== basename(PROGRAM)) continue;
		const after = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1].split(' ');
		const up = Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0]);
		return Date.now() - (up - Number(after[19]) / 100) * 1000;
	}
	throw new Error(`nobody works on ${data}`);
}

/** Starts the program: its page, and how long first paint and readiness took. */
async function start(desk, data) {
	const page = await desk.program(PROGRAM, '--data-dir', data);
	await until('the ground', () =>
		page.run(() => {
			const button = document.querySelector('[data-testid=generate]');
			return (
				button && !button.disabled && /\w/.test(document.querySelector('[data-testid=ground]').innerText)
			);
		})
	);
	const ready = Date.now();
	const painted = await page.run(() => {
		const [paint] = performance.getEntriesByName('first-contentful-paint');
		const [load] = performance.getEntriesByType('navigation');
		// The window is shown when its page is loaded.
		return performance.timeOrigin + Math.max(paint?.startTime ?? 0, load?.loadEventEnd ?? 0);
	});
	const started = await startOf(data);
	return { page, paint: painted - started, ready: ready - started };
}

async function measureStarts(desk, data) {
	const [paints, readies] = [[], []];
	for (let number = 0; number <= STARTS; number += 1) {
		const { page, paint, ready } = await start(desk, data);
		// The first is cold.
		if (number > 0) {
			paints.push(paint);
			readies.push(ready);
		}
		await sleep(500);
		await page.end();
		await sleep(300);
	}
	tell('start to first paint', paints);
	tell('start to ready', readies);
}

/** The gaps between frames while `during` goes on in the page, in milliseconds. */
const gaps = (page, seconds, pixels = 0, css = '') =>
	page.run(
		(seconds, pixels, css) =>
			new Promise((done) => {
				const list = css && document.querySelector(css);
				const found = [];
				let last = 0;
				const begin = performance.now();
				let way = 1;
				requestAnimationFrame(function frame(now) {
					if (last) found.push(now - last);
					if (list && last) {
						if (list.scrollTop + list.clientHeight >= list.scrollHeight - 2) way = -1;
						if (list.scrollTop <= 0) way = 1;
						list.scrollTop += (way * pixels * (now - last)) / 1000;
					}
					last = now;
					if (now - begin < seconds * 1000) requestAnimationFrame(frame);
					else done(found);
				});
			}),
		seconds,
		pixels,
		css
	);

const put = (page, css, value) =>
	page.run(
		(css, value) => {
			const field = document.querySelector(css);
			field.focus();
			field.value = value;
			field.dispatchEvent(new Event('input', { bubbles: true }));
			field.blur();
		},
		css,
		String(value)
	);

async function measureStarter() {
	const folder = await mkdtemp(join(tmpdir(), 'impasto-measure-'));
	const data = join(folder, 'data');
	const desk = await Desk.open(folder);
	try {
		await measureStarts(desk, data);
		const { page } = await start(desk, data);
		await sleep(2000);
		tell('frames at rest', await gaps(page, 5));
		await put(page, id('steps'), 150);
		await put(page, id('pictures'), 4);
		await page.click(id('generate'));
		await until('sampling', async () => /Step \d+ of/.test(await page.text(id('progress'))));
		tell('frames while sampling with all cores', await gaps(page, 10));
		await page.run(() => {
			for (const job of document.querySelectorAll('[data-testid=job]'))
				window.__TAURI_INTERNALS__.invoke('cancel_job', { job: Number(job.dataset.id) });
		});
		await page.gone(id('progress'), 60);
		await put(page, id('steps'), 20);
		await put(page, id('pictures'), 1);

		await page.click('[role=switch]');
		await until(
			'a live frame at rest',
			async () =>
				/ \d\.\d s$/.test(await page.text(`${id('live')}, [role=switch]`)) ||
				(await page.run(() => /live\/0/.test(document.querySelector('[data-testid=easel-image]')?.src ?? '')))
		);
		await sleep(2500);
		const times = [];
		for (let number = 0; number < 20; number += 1) {
			times.push(
				await page.run(
					(down) =>
						new Promise((done) => {
							const slider = document.querySelector('[data-testid=layer-weight]');
							const shown = () => document.querySelector('[data-testid=easel-image]');
							const before = shown()?.src;
							const begin = performance.now();
							slider.focus();
							const key = down ? 'ArrowLeft' : 'ArrowRight';
							slider.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
							requestAnimationFrame(function look() {
								const image = shown();
								if (image && image.src !== before && image.complete)
									requestAnimationFrame(() => done(performance.now() - begin));
								else if (performance.now() - begin > 10_000) done(NaN);
								else requestAnimationFrame(look);
							});
						}),
					number % 2 === 0
				)
			);
			await sleep(1800);
		}
		tell('Live, from the slider to the screen', times);
		await page.end();
	} finally {
		desk.stop();
		await rm(folder, { recursive: true, force: true, maxRetries: 5 });
	}
}

// ---- many pictures and adapters

const THINGS = [
	'fox',
	'castle',
	'owl',
	'rocket',
	'robot',
	'sunflower',
	'lion',
	'unicorn',
	'panda',
	'octopus'
];
const COLOURS = ['light blue', 'pink', 'navy blue', 'orange', 'lavender', 'teal', 'cream', 'white'];
const STYLES = ['neon', 'ink', 'pixel', 'twemoji', 'watercolor'];
const MEDIA = [
	'Ink',
	'Chalk',
	'Oil',
	'Gouache',
	'Charcoal',
	'Pastel',
	'Tempera',
	'Fresco',
	'Linocut',
	'Crayon'
];
const WAYS = [
	'Wash',
	'Sketch',
	'Study',
	'Portrait',
	'Landscape',
	'Poster',
	'Comic',
	'Blueprint',
	'Mosaic',
	'Relief'
];

const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

async function makePictures(data) {
	// A file may have 65,000 names at most; these have some hundred each.
	const sources = [
		join(STARTER, 'model.png'),
		...STYLES.map((name) => join(STARTER, 'adapters', `${name}.png`))
	];
	const folder = join(data, 'pictures');
	await mkdir(join(folder, 'originals'), { recursive: true });
	const originals = [];
	for (let number = 0; number < 120; number += 1) {
		const path = join(folder, 'originals', `${number}.bytes`);
		await cp(sources[number % sources.length], path);
		const { size, mtimeMs } = await stat(path);
		const recipe = JSON.parse((await pngTexts(path)).impasto);
		originals.push({ path, size, modified: Math.floor(mtimeMs), recipe });
	}
	const sql = ['BEGIN;'];
	const newest = Date.now() - 60_000;
	for (let number = 0; number < PICTURES; number += 1) {
		const from = originals[number % originals.length];
		const day = join(folder, `day-${String(Math.floor(number / 400)).padStart(4, '0')}`);
		if (number % 400 === 0) await mkdir(day, { recursive: true });
		const path = join(day, `${String(number).padStart(6, '0')}.png`);
		await link(from.path, path);
		const prompt = `a ${THINGS[number % 10]} on a ${COLOURS[(number >> 3) % 8]} background`;
		const adapters =
			number % 4 === 0 ? [] : [STYLES[number % 5], ...(number % 3 ? [] : [STYLES[(number + 2) % 5]])];
		const params = { ...from.recipe, prompt, seed: number };
		params.adapters = adapters.map((name) => ({
			...(from.recipe.adapters[0] ?? { unet_weight: 0.8, text_encoder_weight: 0.8, enabled: true }),
			name,
			sha256: undefined
		}));
		const words = [prompt, '', 'starter', adapters.join('\n'), String(number)].join('\n');
		sql.push(
			`INSERT INTO image (id, path, size, modified, width, height, params, ground, words, created_at, seconds, device)
			VALUES (${number + 1}, ${quoted(path)}, ${from.size}, ${from.modified}, 128, 128, ${quoted(JSON.stringify(params))}, 'starter', ${quoted(words)}, ${newest - (PICTURES - number) * 60_000}, 1.9, 'CPU · f32');`
		);
		for (const name of adapters)
			sql.push(`INSERT INTO image_adapter VALUES (${number + 1}, ${quoted(name)});`);
		if (number % 50 === 0) sql.push(`INSERT INTO image_note VALUES (${quoted(path)}, 1);`);
	}
	sql.push('COMMIT;');
	execFileSync('sqlite3', [join(data, 'studio.db')], { input: sql.join('\n'), maxBuffer: 1 << 28 });
}

/** Small adapters with contents of their own: four modules of one of the starter's. */
async function makeAdapters(data) {
	const folder = join(data, 'models/adapters');
	await mkdir(folder, { recursive: true });
	const bytes = await readFile(join(STARTER, 'adapters/ink.safetensors'));
	const header = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0))));
	const modules = new Map();
	for (const [name, tensor] of Object.entries(header)) {
		if (name === '__metadata__') continue;
		const module = name.split('.')[0];
		modules.set(module, [...(modules.get(module) ?? []), [name, tensor]]);
	}
	const chosen = [...modules.values()].slice(0, 4).flat();
	for (let number = 0; number < ADAPTERS; number += 1) {
		const title = `${MEDIA[number % 10]} ${WAYS[Math.floor(number / 10) % 10]} ${String(number).padStart(4, '0')}`;
		const own = {
			__metadata__: {
				ss_tag_frequency: JSON.stringify({ '10_x': { [title.toLowerCase()]: 20 } }),
				ss_network_dim: '8'
			}
		};
		let at = 0;
		for (const [name, { dtype, shape, data_offsets }] of chosen) {
			const length = data_offsets[1] - data_offsets[0];
			own[name] = { dtype, shape, data_offsets: [at, at + length] };
			at += length;
		}
		const text = Buffer.from(JSON.stringify(own));
		const size = Buffer.alloc(8);
		size.writeBigUInt64LE(BigInt(text.length));
		// Halves near zero.
		const values = randomBytes(at).map((byte, index) => (index % 2 ? (byte & 0x83) | 0x20 : byte));
		await writeFile(join(folder, `${title}.safetensors`), Buffer.concat([size, text, values]));
		if (number % 3 === 0)
			await link(join(data, 'pictures/originals', `${number % 120}.bytes`), join(folder, `${title}.png`));
	}
}

async function make(data) {
	await mkdir(data, { recursive: true });
	// The program makes its own database.
	const folder = await mkdtemp(join(tmpdir(), 'impasto-measure-'));
	const desk = await Desk.open(folder);
	try {
		const { page } = await start(desk, data);
		await page.end();
	} finally {
		desk.stop();
		await rm(folder, { recursive: true, force: true, maxRetries: 5 });
	}
	await makePictures(data);
	await makeAdapters(data);
	console.log(`${PICTURES} pictures and ${ADAPTERS} adapters in ${data}`);
}

/** From a key to the frame with its result: `field` gets `words`, `result` tells what is shown. */
const search = (page, field, words) =>
	page.run(
		(field, words) =>
			new Promise((done) => {
				const box = document.querySelector(field);
				const state = () => {
					const first = document.querySelector('[role=listbox] [role=option]');
					return first ? `${first.getAttribute('aria-setsize')} ${first.id}` : 'none';
				};
				const before = state();
				const begin = performance.now();
				box.value = words;
				box.dispatchEvent(new Event('input', { bubbles: true }));
				requestAnimationFrame(function look() {
					if (state() !== before) requestAnimationFrame(() => done(performance.now() - begin));
					else if (performance.now() - begin > 8000) done(NaN);
					else requestAnimationFrame(look);
				});
			}),
		field,
		words
	);

async function measureLarge(data) {
	const folder = await mkdtemp(join(tmpdir(), 'impasto-measure-'));
	const desk = await Desk.open(folder);
	try {
		// What is new is read once, in the background; hashes too.
		const { page: first } = await start(desk, data);
		await first.click(id('tab-library'));
		await until(
			'every adapter',
			async () =>
				(await first.run(() => document.querySelector('[role=option]')?.getAttribute('aria-setsize') ?? 0)) >=
				ADAPTERS,
			300
		);
		await sleep(20_000);
		await first.click(id('tab-studio'));
		await sleep(1500);
		await first.end();
		await measureStarts(desk, data);
		const { page } = await start(desk, data);
		await sleep(5000);
		for (const [view, field, questions] of [
			[
				'gallery',
				id('gallery-search'),
				['fox', 'fox teal', 'octopus neon', '99999', 'robot lavender', 'nothing like it']
			],
			['library', id('library-search'), ['chalk', 'ink wash', 'oil', '0777', 'relief', 'nothing like it']]
		]) {
			const opened = Date.now();
			await page.click(id(`tab-${view}`));
			await page.find('[role=option]');
			console.log(`${view}: open after ${Date.now() - opened} ms`);
			await sleep(1500);
			const list = id(`${view}-grid`);
			tell(`${view}, frames at rest`, await gaps(page, 3));
			tell(`${view}, frames while scrolling slowly`, await gaps(page, 6, 1200, list));
			tell(`${view}, frames while scrolling fast`, await gaps(page, 6, 20_000, list));
			const times = [];
			for (const words of [...questions, ...questions.slice(0, 4)]) {
				times.push(await search(page, field, words));
				await sleep(400);
				await search(page, field, '');
				await sleep(400);
			}
			tell(`${view}, from the key to the result`, times);
		}
		await page.click(id('tab-studio'));
		await page.end();
	} finally {
		desk.stop();
		await rm(folder, { recursive: true, force: true, maxRetries: 5 });
	}
}

const [what, where] = process.argv.slice(2);
if (what === 'starter') await measureStarter();
else if (what === 'make' && where) await make(resolve(where));
else if (what === 'large' && where) await measureLarge(resolve(where));
else {
	console.error('node tests/window/measure.mjs starter | make FOLDER | large FOLDER');
	process.exitCode = 2;
}
