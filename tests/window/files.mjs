// Files for the window test: what a person would drop, and what they would look for afterwards.
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const STARTER = join(dirname(fileURLToPath(import.meta.url)), '../../assets/starter');

/** An adapter of the starter as another file, with other bytes: it says so in its metadata. */
export async function writeAdapter(path, from = 'pixel') {
	const bytes = await readFile(join(STARTER, 'adapters', `${from}.safetensors`));
	const length = Number(bytes.readBigUInt64LE(0));
	const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
	header.__metadata__ = { ...header.__metadata__, copy: path };
	const text = Buffer.from(JSON.stringify(header));
	const size = Buffer.alloc(8);
	size.writeBigUInt64LE(BigInt(text.length));
	await mkdir(dirname(path), { recursive: true });
	await writeFile(path, Buffer.concat([size, text, bytes.subarray(8 + length)]));
	return path;
}

/** The starter's base model as a Diffusers folder of another name. */
export async function writeCheckpoint(folder) {
	await cp(join(STARTER, 'model'), folder, { recursive: true });
	return folder;
}

/** Every file below a folder. */
export async function filesBelow(folder) {
	const entries = await readdir(folder, { recursive: true, withFileTypes: true });
	return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

/** The texts of a PNG file by keyword. */
export async function pngTexts(path) {
	const bytes = await readFile(path);
	const texts = {};
	for (let at = 8; at < bytes.length; ) {
		const length = bytes.readUInt32BE(at);
		const data = bytes.subarray(at + 8, at + 8 + length);
		const keyword = data.toString('latin1', 0, data.indexOf(0));
		const kind = bytes.toString('latin1', at + 4, at + 8);
		if (kind === 'tEXt') texts[keyword] = data.toString('latin1', keyword.length + 1);
		// Flags, and empty names of language and translation, stand before an international text.
		if (kind === 'iTXt') texts[keyword] = data.toString('utf8', keyword.length + 5);
		at += length + 12;
	}
	return texts;
}
