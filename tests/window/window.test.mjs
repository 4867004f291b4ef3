// The real program, as it is built, in a real window: what a person does on their first day and on the
// second. `node --test tests/window/` with the program's path in IMPASTO_STUDIO; see `make test-window`.
//
// IMPASTO_SCREENSHOTS names a folder for pictures of every view.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { Desk, KEY, until } from './driver.mjs';
import {
	filesBelow,
	pngTexts,
	writeAdapter,
	writeCheckpoint,
	writeNanAdapter,
	writeWrongFiles,
	writeXlAdapter
} from './files.mjs';

const PROGRAM = resolve(process.env.IMPASTO_STUDIO ?? 'target/debug/impasto-studio');
const PROMPT = 'a fox on a light blue background';

const id = (name) => `[data-testid=${name}]`;
const layer = (name) => `${id('layer')}[data-name="${name}"]`;

let folder, data, desk, page;

before(async () => {
	assert.ok(existsSync(PROGRAM), `${PROGRAM} is not built`);
	folder = await mkdtemp(join(tmpdir(), 'impasto-window-'));
	data = join(folder, 'data');
	desk = await Desk.open(folder);
	page = await desk.program(PROGRAM, '--data-dir', data);
});

after(async () => {
	await page?.end();
	desk?.stop();
	if (process.env.IMPASTO_KEEP) console.log(`kept: ${folder}`);
	else if (folder) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

/** A step of the story: the next ones need it, so they are not tried once it has failed. */
let failed = false;
const step = (name, work, { needed = true } = {}) =>
	test(name, { timeout: 120_000 }, async (context) => {
		if (failed) return context.skip('a step before failed');
		failed = needed;
		try {
			await work();
		} catch (error) {
			await picture('failed').catch(() => {});
			console.error(await readFile(join(folder, 'output.log'), 'utf8').catch(() => ''));
			throw error;
		}
		failed = false;
	});

async function picture(name) {
	const shots = process.env.IMPASTO_SCREENSHOTS;
	if (shots) await desk.photograph(join(shots, `${name}.png`), await page.place());
}

const layers = () =>
	page.run(() => [...document.querySelectorAll('[data-testid=layer]')].map((one) => one.dataset.name));

async function putOnStack(name) {
	await page.click(id('add-layer'));
	await page.click(`${id('model-option')}[data-name="${name}"]`);
	await page.find(layer(name));
	await page.gone(id('model-option'));
}

/** Drops files on the middle of the page, and looks at what the window says while they hover. */
async function drop(paths, shot) {
	const { x, y, width, height } = await page.place();
	const middle = [Math.round(x + width / 2), Math.round(y + height / 2)];
	let said = '';
	await desk.dragFiles(paths, middle, async () => {
		await page.find(id('drop-overlay'));
		said = await until('what the files are', async () => {
			const text = await page.text(id('drop-overlay'));
			return !text.includes('reading what it is') && text;
		});
		if (shot) await picture(shot);
	});
	await page.gone(id('drop-overlay'));
	return said;
}

async function closeResults() {
	await page.press(KEY.escape);
	await page.gone(id('drop-results'));
}

step('the first start lays the starter as ground, with two of its styles', async () => {
	await until('the ground', async () => /Starter/.test(await page.text(id('ground'))));
	await until('two layers', async () => (await layers()).length === 2);
	await page.find(id('prompt'));
	await picture('first-start');
});

step('nothing but the page can be reached from the page', async () => {
	const refused = await page.run(async () => {
		const tried = ['plugin:fs|read_file', 'plugin:window|close', 'plugin:dialog|open', 'no_such_command'];
		const answers = await Promise.allSettled(tried.map((name) => window.__TAURI_INTERNALS__.invoke(name)));
		return answers.every(({ status }) => status === 'rejected');
	});
	assert.ok(refused);
	await page.run(() => void (location.href = 'https://example.org/'));
	await page.run(() => void window.open('https://example.org/'));
	assert.match(await page.run(() => location.href), /^tauri:\/\/localhost/);
	const eval_ = await page.run(() => {
		const script = document.createElement('script');
		script.textContent = 'window.ranInline = true';
		document.head.append(script);
		script.remove();
		return window.ranInline ?? false;
	});
	assert.equal(eval_, false, 'inline scripts do not run');
});

step('a person types a prompt', async () => {
	await page.click(id('prompt'));
	await page.press(`${KEY.control}+a`, KEY.backspace);
	await page.type(PROMPT);
	await until('the prompt', async () => (await page.text(id('prompt'))).trim() === PROMPT);
});

step('and puts two adapters on the stack', async () => {
	for (const name of await layers()) {
		await page.click(`${layer(name)} [aria-label^="Remove "]`);
		await page.gone(layer(name));
	}
	await putOnStack('neon');
	await putOnStack('ink');
	assert.deepEqual((await layers()).toSorted(), ['ink', 'neon']);
});

step('and moves a slider by its keys', async () => {
	const slider = `${layer('neon')} ${id('layer-weight')}`;
	const before = Number(await page.attribute(slider, 'aria-valuenow'));
	await page.run((css) => document.querySelector(css).focus(), slider);
	await page.press(KEY.left, KEY.left);
	await until('the weight', async () => {
		const now = Number(await page.attribute(slider, 'aria-valuenow'));
		return Math.abs(now - (before - 0.1)) < 1e-9;
	});
});

let made;

step('Ctrl+Enter makes a picture, which is on the easel and on disk with its recipe', async () => {
	await page.press(`${KEY.control}+${KEY.enter}`);
	await page.find(id('film-item'), 100);
	await page.gone(id('progress'));
	await until('the picture on the easel', () =>
		page.run(() => {
			const image = document.querySelector('[data-testid=easel-image]');
			return image?.src.startsWith('impasto://localhost/picture/') && image.naturalWidth === 128;
		})
	);
	const pictures = (await filesBelow(join(data, 'pictures'))).filter((path) => path.endsWith('.png'));
	assert.equal(pictures.length, 1, pictures.join());
	made = pictures[0];
	const texts = await pngTexts(made);
	assert.ok(texts.parameters.startsWith(PROMPT), texts.parameters);
	const recipe = JSON.parse(texts.impasto);
	assert.equal(recipe.prompt, PROMPT);
	assert.deepEqual(recipe.adapters.map(({ name }) => name).toSorted(), ['ink', 'neon']);
	await picture('studio');
});

const weightOf = (name) =>
	page.attribute(`${layer(name)} ${id('layer-weight')}`, 'aria-valuenow').then(Number);

step('the strength of the stack is measured, and a slider changes it at once', async () => {
	const value = () => page.text(id('strength-value'));
	const before = await until('the strength', async () => {
		const text = await value();
		return /^\d+\.\d\d/.test(text) && text;
	});
	await page.run((css) => document.querySelector(css).focus(), `${layer('ink')} ${id('layer-weight')}`);
	await page.press(KEY.left);
	await until('another strength', async () => (await value()) !== before);
	await page.press(KEY.right);
	await until('the strength from before', async () => (await value()) === before);
});

step('the blend pad moves two sliders, and one Undo takes them back', async () => {
	const before = [await weightOf('neon'), await weightOf('ink')];
	await page.click(id('blend'));
	await page.find(id('blend-pad'));
	await picture('blend-pad');
	await page.run((css) => document.querySelector(css).focus(), id('blend-knob'));
	await page.press(KEY.right);
	await until('both weights', async () => {
		const now = [await weightOf('neon'), await weightOf('ink')];
		return now.every((weight, at) => weight !== before[at]);
	});
	await page.press(KEY.escape);
	await page.gone(id('blend-pad'));
	await page.press(`${KEY.control}+z`);
	await until('the weights from before', async () => {
		const now = [await weightOf('neon'), await weightOf('ink')];
		return now.every((weight, at) => Math.abs(weight - before[at]) < 1e-9);
	});
});

step('a layer unfolds: curve and blocks change the next picture, and its recipe has them', async () => {
	const tab = (name) =>
		page.run(
			(css, name) => {
				const tabs = [...document.querySelectorAll(`${css} [role=tab]`)];
				tabs.find((one) => one.textContent.includes(name)).focus();
			},
			layer('neon'),
			name
		);
	await page.click(`${layer('neon')} [aria-label^="Details of "]`);
	await page.find(`${layer('neon')} ${id('coverage')}`);
	await until('the effect', async () => /%/.test(await page.text(`${layer('neon')} ${id('effect')}`)));
	await tab('Over steps');
	await page.find(`${layer('neon')} ${id('curve')}`);
	await page.click(`${layer('neon')} [aria-label^="Shape: "]`);
	await page.find('[role=menu]');
	await page.press(KEY.down, KEY.down, KEY.down, KEY.enter);
	await page.find(`${layer('neon')} [aria-label="Shape: Fade out"]`);
	await page.gone('[role=menu]');
	await picture('over-steps');
	// The menu's button has the focus.
	const before = await page.count(id('film-item'));
	await page.press(`${KEY.control}+${KEY.enter}`);
	await until('the fading picture', async () => (await page.count(id('film-item'))) > before, 100);
	await page.gone(id('progress'));
	await tab('Blocks');
	await page.find(`${layer('neon')} ${id('block-bars')}`);
	await page.run(
		(css) => document.querySelector(css).focus(),
		`${layer('neon')} ${id('block-bars')} [role=slider]:not([aria-disabled=true])`
	);
	await page.press(KEY.down, KEY.down);
	await picture('blocks');
	const made = await page.count(id('film-item'));
	await page.press(`${KEY.control}+${KEY.enter}`);
	await until('the picture', async () => (await page.count(id('film-item'))) > made, 100);
	await page.gone(id('progress'));
	const pictures = (await filesBelow(join(data, 'pictures'))).filter((path) => path.endsWith('.png'));
	const recipes = (await Promise.all(pictures.map(pngTexts))).map(({ impasto }) => JSON.parse(impasto));
	const blocks = recipes.flatMap(({ adapters = [] }) => adapters.flatMap((one) => one.blocks ?? []));
	assert.equal(blocks.length, 26, 'one picture has weights of blocks in its recipe');
	await page.press(`${KEY.control}+z`, `${KEY.control}+z`, `${KEY.control}+z`);
	await page.click(`${layer('neon')} [aria-label^="Details of "]`);
});

step('a sheet fills cell by cell, and a cell gives its recipe', async () => {
	await page.run(() => document.activeElement.blur());
	await page.press('s');
	await page.find(id('sheet-dialog'));
	await until('the plan', async () => /\d/.test(await page.text(id('sheet-plan'))));
	await picture('sheet-dialog');
	await page.click(id('sheet-start'));
	await page.gone(id('sheet-dialog'));
	const done = `${id('sheet-cell')}[data-state=done]`;
	await until('all cells', async () => {
		const cells = await page.count(id('sheet-cell'));
		return cells > 1 && (await page.count(done)) === cells;
	}, 100);
	await picture('sheet');
	await page.press(KEY.escape);
	await page.gone(id('sheet'));
});

step('a dropped adapter is copied into the library and lies on the stack', async () => {
	const path = await writeAdapter(join(folder, 'desktop', 'my brush.safetensors'));
	assert.match(await drop([path], 'drop'), /LoCon.*/s);
	await page.find(layer('my brush'));
	assert.ok(existsSync(join(data, 'models/adapters/my brush.safetensors')));
});

step('a dropped folder is offered as ground, and used where it lies', async () => {
	const path = await writeCheckpoint(join(folder, 'desktop', 'tiny base'));
	await drop([path]);
	assert.match(await page.text(id('drop-results')), /tiny base/);
	await page.run(() =>
		[...document.querySelectorAll('[data-testid=drop-results] button')]
			.find((button) => button.textContent.includes('Use as ground'))
			.click()
	);
	await until('the new ground', async () => /tiny base/.test(await page.text(id('ground'))));
	assert.ok(!existsSync(join(data, 'models/checkpoints/tiny base')));
});

step('a dropped picture offers its recipe, and to start from it', async () => {
	const path = join(folder, 'desktop', 'from a friend.png');
	await cp(made, path);
	await drop([path]);
	const said = await page.text(id('drop-results'));
	assert.match(said, /from a friend\.png[^]*Use its recipe[^]*Start from this picture/);
	await picture('drop-results');
	await page.run(() =>
		[...document.querySelectorAll('[data-testid=drop-results] button')]
			.find((button) => button.textContent.includes('Start from this picture'))
			.click()
	);
	await page.find(id('init'));
	await page.click('[aria-label="Remove the picture to start from"]');
	await page.gone(id('init'));
});

step('a dropped text is refused in a sentence', async () => {
	const path = join(folder, 'desktop', 'shopping.txt');
	await writeFile(path, 'eggs, milk\n');
	await drop([path]);
	const said = await page.text(id('drop-results'));
	assert.match(said, /This cannot be used[^]*shopping\.txt/);
	assert.ok(said.length > 'This cannot be used shopping.txt Close'.length + 20, said);
	await picture('refused');
	await closeResults();
});

step('files that cannot be used get a sentence each, and the program goes on', async () => {
	const wrong = await writeWrongFiles(join(folder, 'wrong'));
	const before = await layers();
	await drop(
		wrong.map(({ path }) => path),
		'drop-wrong'
	);
	await page.find(id('drop-results'));
	const said = await page.run(() =>
		[...document.querySelectorAll('[data-testid=drop-results] li')].map((one) => one.textContent)
	);
	await picture('wrong-files');
	for (const { name, says } of wrong) {
		const sentence = said.find((one) => one.includes(name));
		assert.ok(sentence, `nothing is said about ${name}: ${said.join('\n')}`);
		assert.match(sentence.replace(name, ''), says, name);
	}
	assert.equal(new Set(said.map((one) => one.trim())).size, said.length, said.join('\n'));
	await closeResults();
	assert.deepEqual(await layers(), before);
});

step('an adapter for another family stays out of the picture, with the reason', async () => {
	const before = await layers();
	await drop([await writeXlAdapter(join(folder, 'desktop', 'large brush.safetensors'))]);
	assert.match(await page.text(layer('large brush')), /Made for SDXL\. The ground is SD 1\.x/);
	await page.click(`${layer('large brush')} [aria-label^="Remove "]`);
	await page.gone(layer('large brush'));
	assert.deepEqual(await layers(), before);
	assert.ok(existsSync(join(data, 'models/adapters/large brush.safetensors')));
});

step('weights that are no numbers fail in words, and the next picture is made', async () => {
	await drop([await writeNanAdapter(join(folder, 'desktop', 'broken brush.safetensors'))]);
	await page.find(layer('broken brush'));
	const made = await page.count(id('film-item'));
	await page.click(id('generate'));
	const said = await page.text(id('easel-failure'));
	assert.match(said, /broken brush[^]*not a number[^]*(get it again|turn)/i);
	await picture('failure');
	await page.click(`${layer('broken brush')} [aria-label^="Remove "]`);
	await page.gone(layer('broken brush'));
	await page.click(id('generate'));
	await until('the next picture', async () => (await page.count(id('film-item'))) > made, 60);
});

step('a second start hands its file over and ends', async () => {
	const path = join(folder, 'desktop', 'shopping.txt');
	assert.equal(await desk.run(PROGRAM, '--data-dir', data, path), 0);
	assert.match(await page.text(id('drop-results')), /shopping\.txt/);
	await closeResults();
});

step('a page that is loaded anew is told everything again', async () => {
	const before = await layers();
	await page.run(() => location.reload());
	await page.find(id('film-item'));
	await until('the layers', async () => (await layers()).length === before.length);
	assert.deepEqual(await layers(), before);
});

const VIEWS = {
	studio: () => page.click(id('tab-studio')),
	gallery: () => page.click(id('tab-gallery')),
	library: () => page.click(id('tab-library')),
	settings: () => page.press(`${KEY.control}+,`)
};

for (const theme of ['dark', 'light']) {
	for (const [name, go] of Object.entries(VIEWS)) {
		const look = async () => {
			await page.run((theme) => void (document.documentElement.dataset.theme = theme), theme);
			await go();
			await until('the view', () =>
				page.run(() => document.getAnimations().every(({ playState }) => playState !== 'running'))
			);
			await picture(`${name}-${theme}`);
			const faults = await page.faults();
			if (name === 'settings') await page.press(KEY.escape);
			assert.deepEqual(faults, []);
		};
		step(`axe finds nothing in ${name}, ${theme}`, look, { needed: false });
	}
}

step('the cross ends the program', async () => {
	await page.click(id('tab-studio'));
	// The last change is younger than the delay with which changes are saved.
	await page.click(`${layer('ink')} [aria-label^="Mute "]`);
	await desk.pressCross('Impasto');
	await until('its log says so', async () => {
		const logs = await filesBelow(join(data, 'log'));
		return (await readFile(logs[0], 'utf8')).includes('Impasto ends');
	});
	await page.end();
	const place = JSON.parse(await readFile(join(data, 'window.json'), 'utf8'));
	assert.equal(place.maximised, false);
	assert.deepEqual(place.size, { width: 1440, height: 900 });
});

step('the next day everything is where it was', async () => {
	page = await desk.program(PROGRAM, '--data-dir', data);
	await page.find(id('film-item'));
	assert.equal((await page.text(id('prompt'))).trim(), PROMPT);
	assert.deepEqual((await layers()).toSorted(), ['ink', 'my brush', 'neon']);
	assert.equal(await page.count(`${layer('ink')} [aria-label^="Unmute "]`), 1, 'the last change');
	assert.match(await page.text(id('ground')), /tiny base/);
	await until('the picture on the easel', () =>
		page.run(() => document.querySelector('[data-testid=easel-image]')?.naturalWidth === 128)
	);
	await picture('second-day');
});
