/** The kinds of models: what they are called, and how one gets them. */
import type { ModelKind } from '$lib/ipc/types';

interface Words {
	name: string;
	/** Where there is none. */
	none: string;
	how: string;
}

export const KINDS: Record<ModelKind, Words> = {
	adapter: {
		name: 'Adapters',
		none: 'No adapters yet',
		how: 'LoRA files and their relatives (LoCon, LoHa, LoKr, DoRA, …) that you drop onto the window are copied here, and put on the stack. A folder of another program can be added at the left; its files stay where they are.'
	},
	checkpoint: {
		name: 'Ground models',
		none: 'No ground models yet',
		how: 'Drop a base model onto the window, as a .safetensors or .ckpt file or a folder. It is used where it lies.'
	},
	vae: {
		name: 'VAEs',
		none: 'No VAEs yet',
		how: 'A base model brings its own. Drop another one onto the window if you want to try it.'
	},
	embedding: {
		name: 'Embeddings',
		none: 'No embeddings yet',
		how: 'Drop an embedding (textual inversion) onto the window: it is copied here, and its name in the words calls it. Those of a folder that was added stay where they are.'
	},
	other: {
		name: 'Other files',
		none: 'No other files',
		how: 'Files of a kind that is not known are listed here, with the reason.'
	}
};
