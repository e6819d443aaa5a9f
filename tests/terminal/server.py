"""A server at the other end of a real socket: honest by default, and able to lie in every way a test needs."""

import base64
import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from recognition.budget import PrivacyProfile
from terminal import protocol
from terminal.state import TerminalState

SERVER_SEED = bytes(range(32))
OTHER_SEED = bytes(range(100, 132))
TERMINAL_SEED = bytes(range(50, 82))
DOOR_ID = "0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11"
TERMINAL_ID = "b3e2f5b0-4a6e-4a7d-8d3c-0b6d7c9f2e10"
KEY_ID = "server-1"
LIFETIME_S = 60  # of a reply and a decision; at work five seconds, in which a busy machine may stand still


class Server:
    """`answers` are functions (request) -> (status, body dict or bytes, changes), tried by path; see `reply`."""

    def __init__(self, profile: PrivacyProfile) -> None:
        self.profile = profile
        self.requests = []
        self.terminal_keys = [protocol.public_key_of(TERMINAL_SEED)]
        self.paths = {
            "POST /api/v1/terminals/pair": lambda request: (201, self.description()),
            "GET /api/v1/terminals/me": lambda request: (200, self.description()),
            "GET /api/v1/terminals/me/enrollment": lambda request: (204, b""),
            f"GET /api/v1/profiles/{profile.hash}": lambda request: (200, profile.to_json().encode()),
            "POST /api/v1/attempts": lambda request: (200, self.decision(request)),
        }
        self.sign_with = {}  # changes to how replies are signed, see `_headers`
        self.tamper = lambda status, headers, body: (status, headers, body)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = False  # so that `stop` waits for the threads that still answer
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def stop(self):
        """Every thread that this server started has ended afterwards."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def state(self, **changes):
        values = {
            "server_url": self.url,
            "terminal_id": TERMINAL_ID,
            "name": "Front door",
            "role": "door",
            "door_id": DOOR_ID,
            "door_name": "Front door",
            "key_id": protocol.key_id_of(protocol.public_key_of(TERMINAL_SEED)),
            "private_key": TERMINAL_SEED,
            "server_keys": {KEY_ID: protocol.public_key_of(SERVER_SEED)},
            "profile_hash": self.profile.hash,
            "attempt_deadline_ms": 30_000,
        }
        return TerminalState(**{**values, **changes})

    def description(self):
        return {
            "terminal_id": TERMINAL_ID,
            "name": "Front door",
            "role": "door",
            "door": {"id": DOOR_ID, "name": "Front door"},
            "profile_hash": self.profile.hash,
            "server_keys": [
                {
                    "key_id": KEY_ID,
                    "public_key": base64.b64encode(protocol.public_key_of(SERVER_SEED)).decode(),
                }
            ],
            "server_time": datetime.now(UTC).isoformat(),
            "attempt_deadline_ms": 30_000,
        }

    def decision(self, request, **changes):
        honest = {
            "attempt_id": str(uuid.uuid4()),
            "granted": True,
            "reason": "granted",
            "message": "Welcome.",
            "door_id": DOOR_ID,
            "nonce": request["nonce"],
            "expires_at": (datetime.now(UTC) + timedelta(seconds=LIFETIME_S)).isoformat(),
        }
        return {**honest, **changes}

    def _headers(self, status, body, nonce):
        created = int(datetime.now(UTC).timestamp())
        values = {
            "request_nonce": nonce,
            "key_id": KEY_ID,
            "private_key": SERVER_SEED,
            "created": created,
            "expires": created + LIFETIME_S,
        }
        return protocol.sign_reply(status=status, body=body, **{**values, **self.sign_with})

    def _read(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = {"path": handler.path, "method": handler.command, "body": body, "nonce": None}
        request["headers"] = dict(handler.headers.items())
        if handler.path.endswith("/pair"):
            return request
        for key in self.terminal_keys:
            try:
                signed = protocol.verify_request(
                    method=handler.command,
                    url=self.url + handler.path,
                    headers=request["headers"],
                    body=body,
                    public_key=key,
                    now=int(datetime.now(UTC).timestamp()),
                )
            except protocol.ProtocolError as error:
                request["error"] = error.code
            else:
                request["nonce"] = signed.nonce
                break
        return request

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self):
                request = server._read(self)
                server.requests.append(request)
                answer = server.paths.get(f"{request['method']} {request['path']}")
                if request["nonce"] is None and not request["path"].endswith("/pair"):
                    status, content = 401, {"code": request["error"], "detail": "not believed"}
                elif answer is None:
                    status, content = 404, {"code": "not_found", "detail": "There is nothing here."}
                else:
                    status, content = answer(request)
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                headers = server._headers(status, body, request["nonce"]) if request["nonce"] else {}
                status, headers, body = server.tamper(status, headers, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = handle_one  # noqa: N815
            do_POST = handle_one  # noqa: N815

            def log_message(self, *arguments):
                """Quiet."""

        return Handler
