"""Opening a page in the user's browser."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser

# Where one is set, a browser has a screen. Without one, webbrowser takes a text browser, which would take the
# terminal. macOS sets none of them, and opens pages by itself.
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


def open_page(url: str) -> bool:
    """Open a page, without waiting for the browser; false if there is no screen to show it on."""
    if sys.platform != "darwin" and not any(os.environ.get(name) for name in _SCREENS):
        return False
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    return True
