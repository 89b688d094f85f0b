"""HTTP around the devchain: POST a JSON-RPC request or a batch, on loopback only.

Requests and batches are bounded, one lock serialises the engine, each answer leaves in one packet with Nagle's delay
off (with it, the same chain answered 4 transactions a second instead of 19). Only `application/json` is taken, which
a web page of another origin cannot send without asking. Next: __main__.py.
"""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from tolsey.contracts.devchain.calls import Refused
from tolsey.contracts.devchain.engine import Engine
from tolsey.contracts.devchain.rpc import Rpc

MAX_REQUEST_BYTES = 8 << 20
MAX_BATCH = 256
MAX_CONNECTIONS = 128
MAX_KEPT = 64
"""Connections that stay open between requests. Every thread of every process keeps one of its own; what comes beyond is
answered and closed, so that idle ones never take the last place from a request."""
MAX_BRACKETS = 20_000
"""Lists and objects in one body, which bounds how deep they nest. json.loads recurses in C, and py-evm lifts Python's
recursion limit so far that 100,000 levels overflow the C stack and end the process; 50,000 were seen to pass."""
IDLE_S = 60
_log = logging.getLogger(__name__)


class DevChainServer(ThreadingHTTPServer):
    """Listens from its construction on; `serve_forever` answers."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, engine: Engine, port: int) -> None:
        self.rpc = Rpc(engine)
        self.lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.kept = threading.BoundedSemaphore(MAX_KEPT)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("connection from %s ended", client_address, exc_info=True)

    def mine_interval(self, seconds: float, stop: threading.Event) -> None:
        """Mines a block every `seconds` until `stop`, besides those that transactions cause."""
        while not stop.wait(seconds):
            with self.lock:
                self.rpc.engine.mine_if_due()

    def answer_all(self, body: bytes) -> Any:
        """The response object, or list of them, to a request body."""
        if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
            return _error(None, -32700, f"parse error: more than {MAX_BRACKETS} lists and objects")
        try:
            asked = json.loads(body)
        except ValueError:
            return _error(None, -32700, "parse error")
        if not isinstance(asked, list):
            return self._answer(asked)
        if not 0 < len(asked) <= MAX_BATCH:
            return _error(None, -32600, f"batch of {len(asked)} requests, allowed are 1 to {MAX_BATCH}")
        return [self._answer(each) for each in asked]

    def _answer(self, asked: Any) -> dict[str, Any]:
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return _error(None, -32600, "a request is an object with a method")
        request_id, params = asked.get("id"), asked.get("params") or []
        if not isinstance(params, list):
            return _error(request_id, -32602, "params must be a list")
        try:
            with self.lock:
                return {"jsonrpc": "2.0", "id": request_id, "result": self.rpc.answer(asked["method"], params)}
        except Refused as refusal:
            return _error(request_id, refusal.code, str(refusal), refusal.revert_data)
        except Exception as bug:  # noqa: BLE001  # one request must not end the chain; it is logged and answered
            _log.exception("%s failed", asked["method"])
            return _error(request_id, -32603, f"internal error: {type(bug).__name__}: {bug}")


class _Handler(BaseHTTPRequestHandler):
    server: DevChainServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    wbufsize = 1 << 16
    timeout = IDLE_S

    def handle(self) -> None:
        self.is_kept = self.server.kept.acquire(blocking=False)
        try:
            super().handle()
        finally:
            if self.is_kept:
                self.server.kept.release()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            self._refuse(415, "send application/json")
        elif not length.isdecimal() or int(length) > MAX_REQUEST_BYTES:
            self._refuse(413, f"Content-Length {length[:20]!r}, allowed are 0 to {MAX_REQUEST_BYTES} bytes")
        else:
            self._reply(200, self.server.answer_all(self.rfile.read(int(length))))

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._reply(status, _error(None, -32600, message))

    def _reply(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if not self.is_kept:
            self.send_header("Connection", "close")  # which also ends the handler's loop
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """One line per request would drown the log."""


def _error(request_id: Any, code: int, message: str, revert_data: bytes | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if revert_data is not None:
        error["data"] = "0x" + revert_data.hex()
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
