// What may import what: components ← features ← App; a feature knows no other feature.
// That there are no cycles is checked by src/imports.test.ts.
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

const FEATURES = ['studio', 'gallery', 'library', 'settings', 'shortcuts'];

/** Forbids imports that match the patterns, with the reason. */
const forbid = (...groups) => ({
	'no-restricted-imports': [
		'error',
		{ patterns: groups.map(([group, message]) => ({ group, message })) }
	]
});

export default ts.config(
	{ ignores: ['dist', 'node_modules', 'shots'] },
	...ts.configs.recommended,
	...svelte.configs.recommended,
	{
		languageOptions: { globals: { ...globals.browser, ...globals.node } },
		rules: {
			'no-undef': 'off',
			eqeqeq: ['error', 'always', { null: 'ignore' }],
			'no-console': 'error',
			'@typescript-eslint/no-unused-vars': [
				'error',
				{ argsIgnorePattern: '^_', varsIgnorePattern: '^_' }
			],
			'svelte/no-at-html-tags': 'error',
			// The rule of this project is the other way round: sets and maps that are replaced whole are plain.
			'svelte/prefer-svelte-reactivity': 'off'
		}
	},
	{
		files: ['**/*.svelte', '**/*.svelte.ts'],
		languageOptions: { parserOptions: { parser: ts.parser, svelteConfig } }
	},
	{
		files: ['src/components/**'],
		rules: forbid(
			[['$lib/state/*', '$lib/ipc/client'], 'A component has no state and talks to nobody.'],
			[['**/features/*'], 'Components come before features.']
		)
	},
	{
		files: ['src/lib/**'],
		rules: forbid([
			['**/features/*', '$components/*', '**/App.svelte'],
			'State knows no components.'
		])
	},
	...FEATURES.map((feature) => ({
		files: [`src/features/${feature}/**`],
		rules: forbid([
			[
				'**/App.svelte',
				...FEATURES.filter((f) => f !== feature).flatMap((f) => [`**/features/${f}/*`, `../${f}/*`])
			],
			'A feature imports no other feature: what they share is in lib/state or components.'
		])
	})),
	{ files: ['dev/**'], rules: { 'no-console': 'off' } }
);
