// Names the third parties whose code is in the programs, with their licences: to stdout.
//
// Rust crates as cargo resolves them for this machine, without what only builds or tests; npm packages
// of the page without those for development. A text that several share is written once.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const LICENCE = /^(licen[cs]e|copying|copyright|notice|unlicense)/i;

const entries = [...crates(), ...modules(), vocabulary(), font()].toSorted((a, b) =>
	a.name.localeCompare(b.name)
);
const texts = new Map();
for (const { name, version, folder } of entries) {
	if (!folder) continue;
	for (const file of readdirSync(folder, { withFileTypes: true })) {
		if (!file.isFile() || !LICENCE.test(file.name)) continue;
		const text = readFileSync(join(folder, file.name), 'utf8').trim();
		texts.set(text, [...(texts.get(text) ?? []), `${name} ${version}`]);
	}
}

console.log('Impasto contains work of others. Each is named with its licence; the texts follow.\n');
for (const { name, version, licence } of entries) console.log(`${name} ${version}: ${licence}`);
for (const [text, names] of texts) {
	console.log(`\n${'='.repeat(72)}\n${[...new Set(names)].join(', ')}\n\n${text}`);
}

function crates() {
	const run = (...args) => execFileSync('cargo', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
	const { packages } = JSON.parse(run('metadata', '--locked', '--format-version', '1'));
	const used = new Set(
		['impasto', 'impasto-window'].flatMap((program) =>
			run('tree', '--locked', '-p', program, '-e', 'normal', '--prefix', 'none', '-f', '{p}')
				.split('\n')
				.map((line) => line.split(' ').slice(0, 2).join(' '))
		)
	);
	return packages
		.filter(({ name, version, source }) => source && used.has(`${name} v${version}`))
		.map(({ name, version, license, manifest_path }) => ({
			name,
			version,
			licence: license ?? 'see its text',
			folder: join(manifest_path, '..')
		}));
}

function modules() {
	const { packages } = JSON.parse(readFileSync('ui/package-lock.json', 'utf8'));
	return Object.entries(packages)
		.filter(([path, { dev }]) => path && !dev && existsSync(join('ui', path)))
		.map(([path, { version, license }]) => ({
			name: path.replace(/^.*node_modules\//, ''),
			version,
			licence: license ?? 'see its text',
			folder: join('ui', path)
		}));
}

function vocabulary() {
	return { name: 'CLIP vocabulary', version: '', licence: 'MIT', folder: 'assets/tokenizer' };
}

function font() {
	return { name: 'Instrument Sans', version: '', licence: 'OFL-1.1', folder: 'assets/font' };
}
