"""Makes the font that sheets are labelled in of the page's own: one weight of Instrument Sans, as TrueType.

    python pack.py path/to/ui/node_modules/@fontsource-variable/instrument-sans     (needs fonttools and brotli)

writes labels.ttf beside this script. The page has Latin and extended Latin in two files of all weights; these
are one here, of the weight that the window's text has, without what only a layout engine reads.
"""

import sys
from io import BytesIO
from pathlib import Path

from fontTools.merge import Merger
from fontTools.pens.transformPen import TransformPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

WEIGHT = 450
LAYOUT = ["GPOS", "GSUB", "GDEF", "STAT", "prep", "gasp"]

parts = []
for script in ["latin", "latin-ext"]:
    font = TTFont(Path(sys.argv[1]) / "files" / f"instrument-sans-{script}-wght-normal.woff2")
    instantiateVariableFont(font, {"wght": WEIGHT}, inplace=True)
    for table in LAYOUT:
        if table in font:
            del font[table]
    font.flavor = None
    part = BytesIO()
    font.save(part)
    part.seek(0)
    parts.append(part)

merged = Merger().merge(parts)

# The face has arrows up and down only: one to the right is the one up, turned about its middle.
glyphs, up = merged.getGlyphSet(), merged.getBestCmap()[ord("\u2191")]
outline = merged["glyf"][up]
x, y = (outline.xMin + outline.xMax) / 2, (outline.yMin + outline.yMax) / 2
pen = TTGlyphPen(None)
glyphs[up].draw(TransformPen(pen, (0, -1, 1, 0, x - y, y + x)))
right = "arrowright"
merged.setGlyphOrder([*merged.getGlyphOrder(), right])
merged["glyf"][right] = pen.glyph()
merged["hmtx"][right] = merged["hmtx"][up]
for table in merged["cmap"].tables:
    if table.isUnicode():
        table.cmap[ord("\u2192")] = right

# A date would make another file of the same font.
merged["head"].modified = merged["head"].created
merged.recalcTimestamp = False
merged.save(Path(__file__).parent / "labels.ttf")
print(f"{len(merged.getBestCmap())} characters")
