// The window's build: one page, no code from dev/ in it. `IMPASTO_DOUBLE=1 npm run dev` serves the
// page with a double of the Rust side, for screenshots and for work in a browser.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { svelteTesting } from '@testing-library/svelte/vite';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
	plugins: [svelte(), svelteTesting(), double()],
	resolve: { alias: { $lib: at('./src/lib'), $components: at('./src/components') } },
	clearScreen: false,
	server: { host: '127.0.0.1', port: 5173, strictPort: true },
	preview: { host: '127.0.0.1', port: 5173, strictPort: true },
	build: { target: 'es2022', chunkSizeWarningLimit: 1200 },
	test: {
		environment: 'happy-dom',
		include: ['src/**/*.test.ts'],
		setupFiles: ['./src/test.setup.ts']
	}
});

/** Loads `dev/double.ts` before the app: only in the dev server, and only when asked. */
function double() {
	return {
		name: 'double-of-the-rust-side',
		apply: 'serve' as const,
		transformIndexHtml: () =>
			process.env.IMPASTO_DOUBLE
				? [
						{
							tag: 'script',
							attrs: { type: 'module', src: '/dev/double.ts' },
							injectTo: 'head-prepend' as const
						}
					]
				: []
	};
}
