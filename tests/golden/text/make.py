"""Writes what transformers and AUTOMATIC1111 make of strings, for `crates/engine/tests/text.rs`.

    python make.py A1111 TOKENIZER

A1111: a checkout of stable-diffusion-webui 1.10.1, of which `modules/prompt_parser.py`,
`modules/sd_hijack_clip.py` and `modules/sd_emphasis.py` are run as they are, with stand-ins for the
modules that they import and with A1111's default settings. TOKENIZER: the `tokenizer` folder of SD 1.5.
The starter's tokenizer and the one of the tiny golden model are taken from this repository.

tokens.json     per tokenizer: start, end, pad, number of tokens; the ids of each string
emphasis.json   per prompt the pieces of A1111's `parse_prompt_attention`; weights as strings, since not
                every reader of JSON keeps the last bit of an f64
chunks.json     per tokenizer and prompt the chunks of A1111's `tokenize_line`: the ids, of which the end
                tokens at the end are left out, and the weights as runs: [length, weight], ...
weighed.json    states of one chunk before and after A1111's "Original" emphasis, f32

Made with Python 3.11, transformers 5.24.0 (its `CLIPTokenizer`, which is the fast one: the slow one of
transformers 4 is gone), tokenizers 0.23.3, torch 2.15.0, lark 1.1.2.
"""

import importlib
import itertools
import json
import sys
import types
from pathlib import Path

import torch
from transformers import CLIPTokenizer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
A1111, SD15 = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)

TOKENIZERS = {
    "clip": SD15,
    "starter": ROOT / "assets/starter/model/tokenizer",
    "tiny": ROOT / "tests/golden/networks/tiny/tokenizer",
}

STRINGS = [
    "", " ", " \t\r\n ", "a", "a fox", "A FOX", "a  fox\n\tin   snow ", "foxes", "fox, wolf,bear ,owl",
    "a photo of an astronaut riding a horse on mars", "masterpiece, best quality, 1girl, solo",
    "it's", "it'S we're I'll you'd they've I'm don't", "'s 't '' 'sss", "rock'n'roll", "it’s ‘quoted’ “so”",
    "1", "2024", "16k", "3.14159", "1,000,000", "½ ² ٣ Ⅷ ①", "4k,8k,HDR",
    "!", "!!!", "...", "a.b.c", "hello!?", "--ar 16:9", "#tag @user $5 50% a&b *x* ~y~ ^_^", "<3 >_< :-)",
    "C++ / C#", "under_score", "[a] (b:1.2) {c|d}", "\\(x\\)", "https://example.org/a?b=c&d=e",
    "café", "cafe\u0301", "ÀÉÎÕÜ", "naïve façade", "Straße STRASSE", "ŁÓDŹ", "ﬁne ﬂow", "Ångström Å Å",
    "İstanbul ISPARTA ı", "ΟΔΟΣ Σίσυφος", "Привет, Мир", "שלום", "مرحبا بالعالم", "नमस्ते", "สวัสดี", "한국어 한국어",
    "漢字かな交じり文", "日本語,中文", "ａｂｃ １２３", "1\u00a02\u20033\u3000x", "zero\u200bwidth\u200djoin\ufeff",
    "🦊", "🦊🦊 fox🦊", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️ ♥ ☆", "e\u0301\u0302\u0323", "\u0301", "q\u0307\u0323",
    "\x00", "a\x01b\x7fc", "\x1b[31mred\x1b[0m", "\x85\x1c\x1d", "\ufffd\ue000", "𝕏 𝓯𝓸𝔁 𐍈",
    "<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b", "<|STARTOFTEXT|>!!", "<|ENDOFTEXT|>!!",
    "!<|EndOfText|>", "<|endoftext|", "<|endoftext|><|endoftext|>", "<|Endoftext|>'s 1", "</w>", "a</w> b",
    "antidisestablishmentarianism", "supercalifragilisticexpialidocious", "a" * 300, "xyz" * 100, "!?" * 80,
    "donaudampfschifffahrtsgesellschaftskapitän", "aaaa bbbb", "zzzzzzzzz", "trending on artstation",
    "The quick brown fox jumps over the lazy dog. " * 4,
]

PROMPTS = [
    "", " ", "normal text", "an (important) word", "(unbalanced", "[unbalanced", "((a)", "[[a]", "a)", "a]b)c",
    "(unnecessary)(parens)", "(a)[b]", "([a])", "[(a)]", "((a))", "[[a]]", "(((((a)))))", "()", "[]", "(())", "( )",
    "(a:1.3)", "(a:1.3", "a:1.3)", "[a:1.3]", "(a:b)", "(a:1.5) b (c:0.5)", "(a: 1.3 )", "(a:\n1.3)", "(a :1.3)",
    "(a:+1.3)", "(a:-1.3)", "(a:.5)", "(a:1.)", "(a:0)", "(a:-0)", "(a:1)b", "(a:1.0)(b)", "(a:1.1)(b)",
    "(a:1e3)", "(a:)", "(:1.2)", "(:)", "::", "a: b: c", "(a:1.2:1.3)", "(a:1.2", "(a (b:2) c:0.5)",
    "(a (b) [c]:1.2)", "((a:2):3)", "[(a:2)]", "(a [b:1.5] c)", "(a[b)c]d", "[a(b]c)d", "((a]:2)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
    "\\(literal\\]", "\\(a\\)", "(\\(a\\):1.2)", "a\\b", "a\\\\b", "\\\\(a)", "\\", "a\\", "(a\\)", "\\[a\\]", "\\:1.2)",
    "fox \\(animal\\), (red fur:1.2), [[blurry]]", "(a:99999999999999999999)", "(a:0.00000001)", "(" * 40 + "a",
    "BREAK", "a BREAK b", "a  BREAK\n\nb", "aBREAK b", "BREAKFAST", "a BREAK", "BREAK a", "BREAK BREAK", "a,BREAK,b",
    "a_BREAK", "éBREAK", "a\x1cBREAK\x1fb", "break a Break", "(a BREAK b)", "(a BREAK b:1.2)", "(a:1.2) BREAK (b:1.2)",
    "[BREAK]", "((a BREAK b:2):0.5)", "(BREAK:-1)", "(a:-1)BREAK(b:-1)", "(a BREAK b:0)", "(BRE\\AK:-1)",
    "x\\BREAK", "BREAK:BREAK", "a BREAKBREAK b", "1BREAK BREAK1", "(a🦊:1.2)ß", "a(b)c" * 6,
]


def words(count):
    """As many words as tokens, without commas."""
    vocabulary = ["a", "red", "fox", "on", "the", "blue", "hill", "with", "sun", "and"]
    return " ".join(vocabulary[i % len(vocabulary)] for i in range(count))


LONG = [
    "", "a fox", words(74), words(75), words(76), words(150), words(151), words(200),
    # A comma 20, 21 and fewer tokens before the end of a full chunk; more text or none.
    f"{words(54)}, {words(30)}", f"{words(55)}, {words(30)}", f"{words(56)}, {words(30)}", f"{words(60)}, {words(14)}",
    f"{words(60)}, {words(15)}", f"{words(73)}, {words(5)}", f"{words(74)}, {words(5)}", f"{words(75)}, {words(5)}",
    f"{words(74)},, {words(5)}", f"{words(75)},,, {words(80)}", f"{words(74)},", f"{words(75)},",
    f"{words(30)}, {words(35)}, {words(5)}, {words(70)}, {words(30)}", ", ".join(["red fox"] * 60), "," * 200,
    f"{words(60)}, (important {words(20)}:1.3), {words(40)}", f"({words(60)}, {words(30)})", f"[{words(80)}:1.5]",
    "a BREAK b", "BREAK", "BREAK BREAK a", "a BREAK", f"{words(75)} BREAK {words(3)}", f"{words(76)} BREAK {words(75)}",
    f"{words(60)}, {words(10)} BREAK {words(5)}, {words(80)}", "(a BREAK b:1.2)", f"{words(40)}, BREAK, {words(50)}",
    "a <|endoftext|> b", f"{words(70)}, \\(a:b\\), ((c)), [d], (e:0.7), {words(10)}", "🦊" * 60, "a" * 900,
    "(a:0.1)(b:3)(c:-2)(d:1.7320508)",
]


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


# A1111 as it is, between stand-ins.
modules = types.ModuleType("modules")
modules.__path__ = [str(A1111 / "modules")]
sys.modules["modules"] = modules
for name in ["devices", "sd_hijack", "shared"]:
    modules.__dict__[name] = sys.modules[f"modules.{name}"] = types.ModuleType(name)
modules.shared.opts = types.SimpleNamespace(emphasis="Original", comma_padding_backtrack=20)
embeddings = types.SimpleNamespace(find_embedding_at_position=lambda tokens, position: (None, None))
modules.sd_hijack.StableDiffusionModelHijack = object
modules.sd_hijack.model_hijack = types.SimpleNamespace(embedding_db=embeddings)
prompt_parser = importlib.import_module("modules.prompt_parser")
sd_hijack_clip = importlib.import_module("modules.sd_hijack_clip")
sd_emphasis = importlib.import_module("modules.sd_emphasis")


def a1111(tokenizer):
    wrapped = torch.nn.Module()
    wrapped.tokenizer = tokenizer
    return sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords(wrapped, modules.sd_hijack.model_hijack)


def packed(chunk, end):
    ids = list(chunk.tokens)
    # Weights reach the text encoder as f32.
    weights = torch.tensor(chunk.multipliers, dtype=torch.float32).tolist()
    assert len(ids) == len(weights) == 77
    while ids and ids[-1] == end:
        ids.pop()
    return [ids, [[len(list(run)), weight] for weight, run in itertools.groupby(weights)]]


tokens, chunks = {}, {}
for name, folder in TOKENIZERS.items():
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens[name] = {
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "comma": tokenizer.get_vocab().get(",</w>"),
        "count": len(tokenizer),
        "strings": [[text, encode(text)] for text in STRINGS],
    }
    line = a1111(tokenizer).tokenize_line
    chunks[name] = {
        prompt: [packed(chunk, tokenizer.eos_token_id) for chunk in line(prompt)[0]] for prompt in LONG
    }

# Every character that NFC or case folding could treat in its own way, by ranges: too many ids to
# store, so a checksum of them.
tokenizer = CLIPTokenizer.from_pretrained(SD15)
checksum = 0
for first in range(0, 0x110000, 16):
    if 0xD800 <= first < 0xE000:
        continue
    # `a` before each, so that combining characters have something to combine with.
    text = "".join("a" + chr(c) for c in range(first, first + 16))
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        checksum = (checksum * 31 + token) % (1 << 64)
tokens["every_character"] = str(checksum)

write("tokens.json", tokens)
pieces = lambda text: [[piece, repr(float(weight))] for piece, weight in prompt_parser.parse_prompt_attention(text)]
write("emphasis.json", [[text, pieces(text)] for text in PROMPTS])
write("chunks.json", chunks)

generator = torch.Generator().manual_seed(0)
states = torch.randn(1, 77, 8, generator=generator) + 0.3
weights = [1.0] + [1.0, 1.3, 0.5, -0.7, 2.0] * 4 + [1.0] * 56
emphasis = sd_emphasis.EmphasisOriginal()
emphasis.multipliers = torch.asarray([weights])
emphasis.z = states
emphasis.after_transformers()
write("weighed.json", {"states": states.flatten().tolist(), "weights": weights, "weighed": emphasis.z.flatten().tolist()})
