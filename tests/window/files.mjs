// Files for the window test: what a person would drop, and what they would look for afterwards.
import { chmod, cp, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
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

/** A safetensors file from its header and as many bytes of data. */
function safetensors(header, length) {
	const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
	const size = Buffer.alloc(8);
	size.writeBigUInt64LE(BigInt(text.length));
	return Buffer.concat([size, text, Buffer.alloc(length)]);
}

/** An adapter of the starter, of whose weights none is a number. */
export async function writeNanAdapter(path) {
	const bytes = await readFile(join(STARTER, 'adapters', 'pixel.safetensors'));
	const length = Number(bytes.readBigUInt64LE(0));
	const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
	for (const [name, { data_offsets: [begin, end] = [0, 0] }] of Object.entries(header)) {
		if (!name.endsWith('weight')) continue;
		for (let at = begin; at < end; at += 2) bytes.writeUInt16LE(0x7e00, 8 + length + at);
	}
	await mkdir(dirname(path), { recursive: true });
	await writeFile(path, bytes);
	return path;
}

/** A LoRA for SDXL: its width of 2048 in the cross attention, its second text encoder, its kohya names. */
export async function writeXlAdapter(path) {
	const header = {};
	let at = 0;
	const tensor = (name, shape) => {
		const length = 2 * shape.reduce((product, side) => product * side, 1);
		header[name] = { dtype: 'F16', shape, data_offsets: [at, at + length] };
		at += length;
	};
	const module = (name, to, from) => {
		tensor(`${name}.lora_down.weight`, [4, from]);
		tensor(`${name}.lora_up.weight`, [to, 4]);
		tensor(`${name}.alpha`, []);
	};
	for (const block of ['input_blocks_4_1', 'input_blocks_5_1', 'output_blocks_3_1']) {
		const inside = `lora_unet_${block}_transformer_blocks_0`;
		module(`${inside}_attn1_to_q`, 640, 640);
		module(`${inside}_attn2_to_k`, 640, 2048);
	}
	module('lora_te1_text_model_encoder_layers_0_mlp_fc1', 3072, 768);
	module('lora_te2_text_model_encoder_layers_0_mlp_fc1', 5120, 1280);
	await mkdir(dirname(path), { recursive: true });
	await writeFile(path, safetensors(header, at));
	return path;
}

/**
 * Files that cannot be used, and what the window has to say about each: a part of what is wrong with it.
 */
export async function writeWrongFiles(folder) {
	await mkdir(folder, { recursive: true });
	const whole = await readFile(join(STARTER, 'adapters', 'pixel.safetensors'));
	const bomb = Buffer.alloc(64);
	bomb.writeBigUInt64LE(1n << 60n);
	const beyond = { weight: { dtype: 'F16', shape: [64, 64], data_offsets: [0, 1 << 20] } };
	const wrong = {
		'truncated.safetensors': [whole.subarray(0, whole.length / 2), /end|short|truncated|cut|incomplete/i],
		'bomb.safetensors': [bomb, /header/i],
		'beyond.safetensors': [safetensors(beyond, 8192), /end|beyond|short|bytes/i],
		'nonsense.safetensors': [safetensors('{"weight": [', 0), /header|JSON/i],
		'empty.safetensors': [Buffer.alloc(0), /empty/i],
		'zipped.safetensors': [Buffer.from('PK\x03\x04 and so on, for a while'), /zip/i],
		'old.ckpt': [Buffer.from('\x80\x02}q\x00X\x05\x00\x00\x00helloq\x01K\x01s.', 'latin1'), /pickle/i],
		'letter.txt': [Buffer.from('Dear all,\n'), /text/i],
		'blank.png': [Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), /picture|PNG|image/i]
	};
	for (const [name, [bytes]] of Object.entries(wrong)) await writeFile(join(folder, name), bytes);
	await mkdir(join(folder, 'nothing in it'));
	wrong['nothing in it'] = [null, /folder without models/i];
	await symlink(join(folder, 'moved away'), join(folder, 'dangling.safetensors'));
	wrong['dangling.safetensors'] = [null, /link to .*not found/i];
	// Root may read everything.
	if (process.getuid?.() !== 0) {
		await writeFile(join(folder, 'locked.safetensors'), whole);
		await chmod(join(folder, 'locked.safetensors'), 0o000);
		wrong['locked.safetensors'] = [null, /may not be read/i];
	}
	return Object.entries(wrong).map(([name, [, says]]) => ({ path: join(folder, name), name, says }));
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
	for (let at = 8; at < bytes.length;) {
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
