"""A window with files in it, to drag them from, once: drag.py PATH...

It ends with 1 if nobody took them.
"""

import pathlib
import sys

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk  # noqa: E402


def give(_widget, _context, data, _info, _time):
    data.set_uris([pathlib.Path(path).as_uri() for path in sys.argv[1:]])


def failed(_widget, _context, _result):
    global taken
    taken = False
    return True  # No animation back to the start.


taken = True
box = Gtk.EventBox()
box.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, [], Gdk.DragAction.COPY)
box.drag_source_add_uri_targets()
box.connect("drag-data-get", give)
box.connect("drag-failed", failed)
# Not before the other side has what it asked for.
box.connect("drag-end", lambda _widget, _context: Gtk.main_quit())

window = Gtk.Window(title="Files")
window.set_default_size(120, 120)
window.add(box)
window.move(0, 0)
window.show_all()
window.connect("destroy", Gtk.main_quit)
Gtk.main()
sys.exit(0 if taken else 1)
