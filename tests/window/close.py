"""Asks a window to close, as its cross does: close.py TITLE"""

import ctypes
import sys

x11 = ctypes.CDLL("libX11.so.6")
for name in ("XOpenDisplay", "XDefaultRootWindow", "XInternAtom"):
    getattr(x11, name).restype = ctypes.c_void_p if name == "XOpenDisplay" else ctypes.c_ulong


class ClientMessage(ctypes.Structure):
    """XClientMessageEvent with data in 32-bit units."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("room_for_any_event", ctypes.c_long * 24),
    ]


display = ctypes.c_void_p(x11.XOpenDisplay(None))


def named(window, title):
    """The windows below `window` with this title that know how to close."""
    root, parent = ctypes.c_ulong(), ctypes.c_ulong()
    children, count = ctypes.POINTER(ctypes.c_ulong)(), ctypes.c_uint()
    x11.XQueryTree(
        display,
        ctypes.c_ulong(window),
        ctypes.byref(root),
        ctypes.byref(parent),
        ctypes.byref(children),
        ctypes.byref(count),
    )
    for child in children[: count.value]:
        name = ctypes.c_char_p()
        x11.XFetchName(display, ctypes.c_ulong(child), ctypes.byref(name))
        protocols, known = ctypes.POINTER(ctypes.c_ulong)(), ctypes.c_int()
        closes = x11.XGetWMProtocols(
            display, ctypes.c_ulong(child), ctypes.byref(protocols), ctypes.byref(known)
        )
        if name.value == title.encode() and closes:
            yield child
        yield from named(child, title)


def atom(name):
    return x11.XInternAtom(display, name, 0)


found = list(named(x11.XDefaultRootWindow(display), sys.argv[1]))
if not found:
    sys.exit(f"no window is called {sys.argv[1]}")
for window in found:
    message = ClientMessage(
        type=33, window=window, message_type=atom(b"WM_PROTOCOLS"), format=32
    )
    message.data[0] = atom(b"WM_DELETE_WINDOW")
    x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
x11.XSync(display, 0)
