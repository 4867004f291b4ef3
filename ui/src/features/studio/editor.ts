/** The prompt's editor: CodeMirror with marks for trigger words and chunk ends, and emphasis by key. */
import { standardKeymap } from '@codemirror/commands';
import { EditorState, StateEffect, StateField, type Extension } from '@codemirror/state';
import {
	Decoration,
	EditorView,
	keymap,
	placeholder,
	WidgetType,
	type DecorationSet
} from '@codemirror/view';
import { emphasize, occurrences } from '$lib/words';

export interface TriggerWord {
	word: string;
	pigment: number;
}

interface Marks {
	words: TriggerWord[];
	/** Where chunks of tokens end. */
	ends: number[];
}

interface Handlers {
	onchange: (text: string) => void;
	/** Pasted text; what it gives back is put in instead, `null` puts in nothing. */
	onpaste: (text: string) => string | null;
}

const EMPHASIS = 0.1;

class ChunkEnd extends WidgetType {
	override toDOM() {
		const mark = document.createElement('span');
		mark.className = 'chunk-end';
		mark.dataset.tip = 'The text encoder reads 75 tokens at a time. Here one chunk ends.';
		return mark;
	}

	override eq() {
		return true;
	}
}

const setMarks = StateEffect.define<Marks>();

/** Marks are found anew with each change, so that they never lag behind the typing. */
const marks = StateField.define<{ given: Marks; set: DecorationSet }>({
	create: () => ({ given: { words: [], ends: [] }, set: Decoration.none }),
	update(value, transaction) {
		const effect = transaction.effects.find((one) => one.is(setMarks));
		if (!effect && !transaction.docChanged) return value;
		const given: Marks = effect?.value ?? value.given;
		return { given, set: decorate(transaction.state.doc.toString(), given) };
	},
	provide: (field) => EditorView.decorations.from(field, (value) => value.set)
});

function decorate(text: string, { words, ends }: Marks): DecorationSet {
	const underlined = words.flatMap(({ word, pigment }) =>
		occurrences(text, word).map(({ from, to }) =>
			Decoration.mark({
				class: 'trigger',
				attributes: { style: `--p: var(--pigment-${pigment})` }
			}).range(from, to)
		)
	);
	const divided = ends
		.filter((at) => at <= text.length)
		.map((at) => Decoration.widget({ widget: new ChunkEnd(), side: 1 }).range(at));
	return Decoration.set([...underlined, ...divided], true);
}

function emphasis(by: number) {
	return (view: EditorView) => {
		const { from, to } = view.state.selection.main;
		const change = emphasize(view.state.doc.toString(), { from, to }, by);
		if (!change) return false;
		const { selection, ...changes } = change;
		view.dispatch({ changes, selection: { anchor: selection.from, head: selection.to } });
		return true;
	};
}

export function createEditor(
	parent: HTMLElement,
	text: string,
	attributes: Record<string, string>,
	hint: string,
	handlers: Handlers
): EditorView {
	const extensions: Extension[] = [
		EditorView.lineWrapping,
		EditorView.contentAttributes.of({
			...attributes,
			spellcheck: 'true',
			'aria-multiline': 'true'
		}),
		placeholder(hint),
		marks,
		keymap.of([
			{ key: 'Mod-ArrowUp', run: emphasis(EMPHASIS), preventDefault: true },
			{ key: 'Mod-ArrowDown', run: emphasis(-EMPHASIS), preventDefault: true },
			...standardKeymap
		]),
		EditorView.updateListener.of((update) => {
			if (update.docChanged && !update.transactions.some((one) => one.isUserEvent('outside'))) {
				handlers.onchange(update.state.doc.toString());
			}
		}),
		EditorView.domEventHandlers({
			paste(event, view) {
				const pasted = event.clipboardData?.getData('text/plain') ?? '';
				const instead = handlers.onpaste(pasted);
				if (instead === pasted) return false;
				event.preventDefault();
				if (instead) view.dispatch(view.state.replaceSelection(instead));
				return true;
			}
		})
	];
	return new EditorView({ parent, state: EditorState.create({ doc: text, extensions }) });
}

export function mark(view: EditorView, words: TriggerWord[], ends: number[]) {
	view.dispatch({ effects: setMarks.of({ words, ends }) });
}

/** Text that changed elsewhere (a chip, Undo): only the part that differs, so that the cursor stays. */
export function follow(view: EditorView, text: string) {
	const now = view.state.doc.toString();
	if (now === text) return;
	let from = 0;
	while (from < now.length && from < text.length && now[from] === text[from]) from++;
	let tail = 0;
	const most = Math.min(now.length, text.length) - from;
	while (tail < most && now[now.length - 1 - tail] === text[text.length - 1 - tail]) tail++;
	view.dispatch({
		changes: { from, to: now.length - tail, insert: text.slice(from, text.length - tail) },
		userEvent: 'outside'
	});
}
