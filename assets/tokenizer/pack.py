"""Packs CLIP's merges.txt into the table that the engine has built in.

    python pack.py path/to/merges.txt     (any SD 1.x, SD 2.x or SDXL model has it under tokenizer/)

writes clip.merges beside this script: for each merge, in the order of the file, the ids of its two
tokens, two bytes each, low byte first. Nothing else is needed: the ids count through the 256 bytes
(those that can be printed first), the same at the end of a word, the merges, and the two special
tokens. A test of the engine unpacks it again and compares it with the checksum of the original.
"""

import struct
import sys
from pathlib import Path

lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]

printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
letters = [chr(byte) for byte in printed] + [chr(0x100 + i) for i in range(256 - len(printed))]
tokens = letters + [letter + "</w>" for letter in letters] + [left + right for left, right in merges]
ids = {token: id for id, token in enumerate(tokens)}
assert len(ids) == len(tokens) < 1 << 16

packed = b"".join(struct.pack("<HH", ids[left], ids[right]) for left, right in merges)
(Path(__file__).parent / "clip.merges").write_bytes(packed)
print(f"{len(merges)} merges, {len(packed)} bytes")
