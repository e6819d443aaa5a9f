"""A server for the browser modules alone: an empty page with a video, under the policy of the pages that capture."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accesscontrol.middleware import CAMERA_SECURITY_POLICY
from recognition.fetch_models import models_folder

STATIC = Path(__file__).resolve().parents[2] / "enrollment" / "static"


class _Modules(http.server.SimpleHTTPRequestHandler):
    """The browser modules, the networks and an empty page, under the policy of a page that captures."""

    extensions_map = {
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        "": "application/octet-stream",
    }

    def translate_path(self, path: str) -> str:
        name = re.sub(r"[?#].*", "", path).lstrip("/")
        if name.startswith("enrollment/networks/"):
            return str(models_folder() / Path(name).name)
        return str(STATIC / name)

    def do_GET(self) -> None:
        if self.path in ("/", "/favicon.ico"):
            page = b"<!doctype html><title>modules</title><video muted playsinline></video>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", CAMERA_SECURITY_POLICY)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def module_server() -> Iterator[str]:
    """Its address, ending with a slash."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Modules)
    thread = threading.Thread(target=listener.serve_forever, name="modules", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_address[1]}/"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
