// What tests need of a browser that happy-dom lacks, and how a test ends.
import '@testing-library/jest-dom/vitest';
import { cleanup } from '@testing-library/svelte';
import { clearMocks } from '@tauri-apps/api/mocks';
import { afterEach } from 'vitest';

afterEach(() => {
	cleanup();
	clearMocks();
});
