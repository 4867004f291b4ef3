/** Every key that does something: what the list under `?` shows. */

interface Group {
	group: string;
	items: { keys: string; does: string }[];
}

export const SHORTCUTS: Group[] = [
	{
		group: 'Everywhere',
		items: [
			{ keys: 'Ctrl+Enter', does: 'Generate; while a picture is being made, the next one waits' },
			{ keys: 'Escape', does: 'Close what is open, else cancel the running job' },
			{ keys: 'Ctrl+Z', does: 'Undo a change of stack, words or numbers' },
			{ keys: 'Ctrl+Shift+Z', does: 'Redo' },
			{ keys: 'Ctrl+1', does: 'Studio' },
			{ keys: 'Ctrl+2', does: 'Gallery' },
			{ keys: 'Ctrl+3', does: 'Library' },
			{ keys: 'Ctrl+,', does: 'Settings' },
			{ keys: '?', does: 'This list' }
		]
	},
	{
		group: 'Studio',
		items: [
			{ keys: 'A', does: 'Put an adapter on the stack' },
			{ keys: 'B', does: 'Open or close the blend pad' },
			{ keys: 'P', does: 'Write the prompt' },
			{ keys: 'L', does: 'Switch Live on or off' },
			{ keys: 'D', does: 'Draw a new seed' },
			{ keys: 'K', does: 'Lock or unlock the seed' },
			{ keys: 'N', does: 'Show numbers and queue, in a narrow window' }
		]
	},
	{
		group: 'Easel',
		items: [
			{ keys: 'C', does: 'Hold to see the picture before' },
			{ keys: 'F', does: 'Fit the picture into the easel' },
			{ keys: '1', does: 'One screen pixel for each of the picture’s' },
			{ keys: '+', does: 'Zoom in' },
			{ keys: '-', does: 'Zoom out' },
			{ keys: 'Left', does: 'The newer picture' },
			{ keys: 'Right', does: 'The older picture' },
			{ keys: 'R', does: 'Restore all of the picture’s recipe' },
			{ keys: 'Delete', does: 'Delete the picture' }
		]
	},
	{
		group: 'Sheet',
		items: [
			{ keys: 'S', does: 'Make a sheet: many pictures in a grid' },
			{ keys: 'Arrows', does: 'To the cell beside it, or to its picture' },
			{ keys: 'Enter', does: 'The cell alone on the easel; once more takes it' },
			{ keys: 'T', does: 'Take the cell: its recipe goes into the studio' },
			{ keys: 'Escape', does: 'Back to all cells, then to the picture' }
		]
	},
	{
		group: 'Weights and numbers',
		items: [
			{ keys: 'Arrows', does: 'A step: 0.05 for a weight' },
			{ keys: 'Shift+Arrows', does: 'A small step: 0.01 for a weight' },
			{ keys: 'Double click', does: 'Back to the weight that the adapter came with' }
		]
	},
	{
		group: 'Curves and blocks',
		items: [
			{ keys: 'Arrows', does: 'Move a point; change a block, or go to the next' },
			{ keys: 'Shift+Arrows', does: 'Move a point further; change a block by 0.01' },
			{ keys: 'Insert', does: 'Another point, halfway to the next' },
			{ keys: 'Delete', does: 'Take the point off' }
		]
	},
	{
		group: 'Blend pad',
		items: [
			{ keys: 'Arrows', does: 'Move the knob; with Shift five times as far' },
			{ keys: 'Escape', does: 'Close it' }
		]
	},
	{
		group: 'Words',
		items: [
			{ keys: 'Ctrl+Up', does: 'More emphasis on the word or the selection' },
			{ keys: 'Ctrl+Down', does: 'Less emphasis' }
		]
	},
	{
		group: 'Gallery',
		items: [
			{ keys: 'Arrows', does: 'To the picture beside it; with Shift the ones between too' },
			{ keys: 'Ctrl+A', does: 'Select all pictures' },
			{ keys: 'Enter', does: 'Full screen, and back' },
			{ keys: 'F', does: 'Make it a favourite, or not' },
			{ keys: 'C', does: 'Copy the picture' },
			{ keys: 'Delete', does: 'Delete what is selected' },
			{ keys: 'Escape', does: 'Select none' }
		]
	},
	{
		group: 'Full screen',
		items: [
			{ keys: 'Left', does: 'The picture before' },
			{ keys: 'Right', does: 'The next picture' },
			{ keys: '+', does: 'Zoom in' },
			{ keys: '-', does: 'Zoom out' },
			{ keys: '0', does: 'As large as fits' },
			{ keys: '1', does: 'One screen pixel for each of the picture’s' }
		]
	},
	{
		group: 'Library',
		items: [
			{ keys: 'Arrows', does: 'To the card beside it' },
			{ keys: 'Enter', does: 'Onto the stack, or use as ground' },
			{ keys: 'Escape', does: 'Select none' }
		]
	}
];
