// Swatches for the double: small landscapes drawn from a number, so that each id has its own picture.

const SKIES = [
	'#9ccbe8',
	'#f3d6d0',
	'#20264d',
	'#f0a861',
	'#d9c8ee',
	'#1b7f82',
	'#f6e7c6',
	'#e8eef5'
];
const SUNS = ['#ffb020', '#e4574d', '#f4f0d0', '#ffffff', '#e79a5b', '#ffd95a'];
const HILLS = ['#2f6f57', '#5b4a86', '#8a3a4b', '#274b73', '#7d6a2c', '#3b8068'];

/** A stream of numbers from 0 to 1 that belongs to a seed. */
export function chances(seed: number): () => number {
	let state = (seed * 2654435761 + 12345) >>> 0;
	return () => {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
		return state / 2 ** 32;
	};
}

const pick = <T>(from: readonly T[], chance: number): T =>
	from[Math.floor(chance * from.length)] as T;

/** A picture as an SVG, as it looks when `share` of its steps are done. */
export function landscape(seed: number, share = 1): string {
	const next = chances(seed + 7);
	const sky = pick(SKIES, next());
	const sun = {
		x: 40 + next() * 176,
		y: 40 + next() * 70,
		r: 22 + next() * 26,
		fill: pick(SUNS, next())
	};
	const hills = [0, 1, 2].map((layer) => {
		const y = 140 + layer * 36;
		const peak = 60 + next() * 140;
		const fill = pick(HILLS, next());
		return `<path d="M-20 256V${y + 20}Q${peak} ${y - 70 * next()} 276 ${y + 10 * next()}V256Z" fill="${fill}"/>`;
	});
	const blur = (1 - share) * 22;
	const noise = (1 - share) * 0.85;
	return `<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256" viewBox="0 0 256 256"><defs><filter id="b"><feGaussianBlur stdDeviation="${blur}"/></filter><filter id="n"><feTurbulence type="fractalNoise" baseFrequency=".18" seed="${seed % 999}"/></filter></defs><g filter="${blur ? 'url(#b)' : 'none'}"><rect width="256" height="256" fill="${sky}"/><circle cx="${sun.x}" cy="${sun.y}" r="${sun.r}" fill="${sun.fill}"/>${hills.join('')}</g>${noise ? `<rect width="256" height="256" filter="url(#n)" opacity="${noise}"/>` : ''}</svg>`;
}

const asUrl = (svg: string) => `data:image/svg+xml,${encodeURIComponent(svg)}`;

/** Browsers do not know `impasto://`: addresses of it become drawings, wherever an image is given one. */
export function answerPixels(
	shareOf: (job: number, revision: number) => number,
	seedOf: (kind: string, id: string) => number | null
) {
	const draw = (address: string) => {
		const url = /^impasto:\/\/localhost\/(\w+)\/([^?]+)(?:\?rev=(\d+))?$/.exec(address);
		if (!url) return address;
		const [, kind = '', id = '', revision = '0'] = url;
		const seed = seedOf(kind, id);
		if (seed === null) return 'data:,';
		const share = kind === 'preview' ? shareOf(Number(id), Number(revision)) : 1;
		return asUrl(landscape(kind === 'live' ? seed + Number(revision) : seed, share));
	};
	const source = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, 'src');
	Object.defineProperty(HTMLImageElement.prototype, 'src', {
		...source,
		set(this: HTMLImageElement, value: string) {
			source?.set?.call(this, draw(value));
		}
	});
	const setAttribute = Element.prototype.setAttribute;
	Element.prototype.setAttribute = function (name, value) {
		setAttribute.call(
			this,
			name,
			this instanceof HTMLImageElement && name === 'src' ? draw(value) : value
		);
	};
}
