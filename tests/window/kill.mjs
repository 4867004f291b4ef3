// Kills the real program in the middle of a queue of ten, again and again, on one data folder: after each
// restart nothing that was made is lost, nothing is half-written, and the rest goes on.
//
//   node tests/window/kill.mjs [ROUNDS]     the program's path in IMPASTO_STUDIO; 50 rounds otherwise
//
// Needs what the window test needs, and sqlite3. The moments are drawn anew each time: IMPASTO_SEED names
// a draw to repeat.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cp, mkdtemp, readdir, readFile, readlink, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { inflateSync } from 'node:zlib';
import { Desk, until } from './driver.mjs';
import { filesBelow, pngTexts } from './files.mjs';

const PROGRAM = resolve(process.env.IMPASTO_STUDIO ?? 'target/release/impasto-studio');
const ROUNDS = Number(process.argv[2] ?? 50);
const SEED = Number(process.env.IMPASTO_SEED ?? Date.now() % 1_000_000);
const JOBS = 10;

const id = (name) => `[data-testid=${name}]`;

/** mulberry32. */
function random(seed) {
	return () => {
		seed = (seed + 0x6d2b79f5) | 0;
		let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
		t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
	};
}

/** Rows of a query, as objects. On a copy, so that looking changes nothing. */
async function rows(data, sql) {
	const copy = await mkdtemp(join(tmpdir(), 'impasto-kill-db-'));
	try {
		for (const suffix of ['', '-wal'])
			await cp(join(data, `studio.db${suffix}`), join(copy, `studio.db${suffix}`)).catch(() => {});
		const text = execFileSync('sqlite3', ['-json', join(copy, 'studio.db'), sql], {
			encoding: 'utf8'
		});
		return text.trim() ? JSON.parse(text) : [];
	} finally {
		await rm(copy, { recursive: true, force: true });
	}
}

const jobsOf = (data) => rows(data, 'SELECT id, state, image FROM job ORDER BY id');

/** The process that has this data folder: WebDriver does not say which it is. */
async function processOf(data) {
	for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
		const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
		const program = await readlink(`/proc/${pid}/exe`).catch(() => '');
		if (words.split('\0').includes(data) && basename(program) === basename(PROGRAM)) return Number(pid);
	}
	throw new Error(`nobody works on ${data}`);
}

/** A PNG is whole if all of its chunks are, and its pixels are as many as it says. */
async function checkPicture(path) {
	const bytes = await readFile(path);
	assert.equal(bytes.toString('latin1', 0, 8), '\x89PNG\r\n\x1a\n', path);
	const pixels = [];
	let at = 8;
	let kind = '';
	while (at < bytes.length) {
		const length = bytes.readUInt32BE(at);
		assert.ok(at + 12 + length <= bytes.length, `${path} ends in the middle of a chunk`);
		kind = bytes.toString('latin1', at + 4, at + 8);
		if (kind === 'IDAT') pixels.push(bytes.subarray(at + 8, at + 8 + length));
		at += 12 + length;
	}
	assert.equal(kind, 'IEND', `${path} has no end`);
	const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
	const channels = { 2: 3, 6: 4 }[bytes[25]];
	// zlib checks the sum of what it unpacks.
	assert.equal(inflateSync(Buffer.concat(pixels)).length, height * (1 + width * channels), path);
	const texts = await pngTexts(path);
	const recipe = JSON.parse(texts.impasto);
	assert.equal(recipe.width, width, path);
	assert.ok(texts.parameters.includes(`Seed: ${recipe.seed}`), path);
}

async function pictures(data) {
	const files = await filesBelow(join(data, 'pictures')).catch(() => []);
	return files.filter((path) => path.endsWith('.png'));
}

const leftovers = async (data) => {
	const names = await readdir(data, { recursive: true });
	return names.filter((name) => /\.tmp$|\.impasto-/.test(name) && !name.startsWith('webview'));
};

async function begin(desk, data) {
	const page = await desk.program(PROGRAM, '--data-dir', data);
	await page.find(id('prompt'));
	return page;
}

/** Few steps, so that pictures are written often; ten pictures. */
async function prepare(page) {
	const type = (name, value) =>
		page.run(
			(name, value) => {
				const field = document.querySelector(`[data-testid=${name}]`);
				field.focus();
				field.value = value;
				field.dispatchEvent(new Event('input', { bubbles: true }));
				field.blur();
			},
			name,
			value
		);
	await type('steps', '4');
	await type('pictures', String(JOBS));
	await until('ten pictures', async () =>
		page.run(() => document.querySelector('[data-testid=pictures]').value === '10')
	);
}

async function round(desk, data, chance, total) {
	let page = await begin(desk, data);
	const before = new Set((await jobsOf(data)).map((job) => job.id));
	await prepare(page);
	await page.click(id('generate'));
	const mine = (jobs) => jobs.filter((job) => !before.has(job.id));
	await until('the queue', async () => mine(await jobsOf(data)).length === JOBS);
	await sleep(chance() * total);
	process.kill(await processOf(data), 'SIGKILL');
	await page.end();

	const killed = mine(await jobsOf(data));
	const count = (jobs, state) => jobs.filter((job) => job.state === state).length;
	const found = { made: (await pictures(data)).length, temporary: (await leftovers(data)).length };
	for (const path of await pictures(data)) await checkPicture(path);
	assert.equal(killed.length, JOBS, 'jobs are lost');
	assert.ok(count(killed, 'running') <= 1, JSON.stringify(killed));

	page = await begin(desk, data);
	const [{ integrity_check }] = await rows(data, 'PRAGMA integrity_check');
	assert.equal(integrity_check, 'ok');
	const after = mine(await jobsOf(data));
	for (const job of killed) {
		const now = after.find((other) => other.id === job.id);
		// Those that had ended may be off the list; the others are there, and none runs that was killed.
		if (job.state === 'done') {
			const [image] = await rows(data, `SELECT path FROM image WHERE id = ${job.image}`);
			assert.ok((await stat(image.path)).isFile(), 'a picture that was made is lost');
		} else if (job.state === 'running') assert.equal(now.state, 'interrupted');
		else assert.ok(['queued', 'running', 'done'].includes(now.state), JSON.stringify(now));
	}
	// The rest goes on by itself; what was interrupted when it is asked to.
	const interrupted = count(killed, 'running');
	if (interrupted) {
		const again = `${id('job')}[data-state=interrupted] [aria-label^="Queue again"]`;
		await page.find(again);
		await page.run((css) => document.querySelector(css).click(), again);
	}
	await until(
		'the queue is empty',
		async () => {
			const left = mine(await jobsOf(data)).filter((job) => job.state !== 'done');
			return left.length === 0;
		},
		60
	);
	const files = await pictures(data);
	for (const path of files) await checkPicture(path);
	const known = await rows(data, 'SELECT path FROM image');
	await until('the index has every picture', async () => {
		const paths = new Set((await rows(data, 'SELECT path FROM image')).map(({ path }) => path));
		return files.every((path) => paths.has(path));
	});
	assert.equal(new Set(known.map(({ path }) => path)).size, known.length);
	await until('nothing half-written is left', async () => (await leftovers(data)).length === 0, 40);
	await page.end();
	return { done: count(killed, 'done'), interrupted, queued: count(killed, 'queued'), ...found };
}

const folder = await mkdtemp(join(tmpdir(), 'impasto-kill-'));
const data = join(folder, 'data');
const desk = await Desk.open(folder);
const chance = random(SEED);
console.log(`seed ${SEED}`);
let made = 0;
try {
	// How long the ten take: until then there is something to kill.
	let page = await begin(desk, data);
	await prepare(page);
	await page.click(id('generate'));
	const started = Date.now();
	await until('the first ten', async () => (await pictures(data)).length === JOBS, 120);
	const total = Date.now() - started;
	await page.end();
	made = JOBS;
	for (let number = 1; number <= ROUNDS; number += 1) {
		const { done, interrupted, queued, temporary, made: there } = await round(desk, data, chance, total);
		// A picture may have been named just before the job was marked as done: it is there and stays, and
		// the job is made again.
		assert.ok(there - made - done <= 1 && there - made >= done, `${there} pictures, ${made} + ${done}`);
		made = (await pictures(data)).length;
		console.log(
			`${number}: killed with ${done} done, ${interrupted} running, ${queued} queued, ` +
				`${temporary} half-written; ${made} pictures now, all whole`
		);
	}
	console.log(`${ROUNDS} rounds: nothing lost, nothing half-written`);
} catch (error) {
	console.error(error);
	console.error(`kept: ${folder}`);
	process.exitCode = 1;
} finally {
	desk.stop();
	if (!process.exitCode) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}
