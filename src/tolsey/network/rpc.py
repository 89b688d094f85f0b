"""Question and answer: one bounded request, one bounded reply, one stream, one deadline.

    request  u32be(length) ‖ bytes
    reply    u32be(length) ‖ 0x00 ‖ bytes
             u32be(length) ‖ 0x01 ‖ u8(length of code) ‖ code (ASCII) ‖ message (UTF-8, at most 1 kB)

Codes that this file sends: `violation` (the request broke the protocol, the sender's score fell) and `unavailable`
(the answer needs something that is not to be had now). A handler raises `RpcRefused` for its own codes. The message
is a stranger's text: for a person to read, never to decide on. Next in the flow: the protocols of node and client.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tolsey.errors import LocalViolation, NetworkError, PeerTimeout, RemoteViolation
from tolsey.network import scores
from tolsey.network.host import Host
from tolsey.network.streams import Stream

MAX_ERROR_BYTES = 1024
_OK, _ERROR = b"\x00", b"\x01"
_CODE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NAME = re.compile(r"/tolsey/[a-z][a-z0-9-]*/[1-9][0-9]*")
_log = logging.getLogger(__name__)

Handler = Callable[[str, bytes], Awaitable[bytes]]


class RpcRefused(NetworkError):
    """The peer answered with an error.

    Args:
        code: what to decide on: lower-case letters, digits and hyphens, at most 32.
        message: what to show; from the peer, so never trusted.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One protocol of one request and one reply.

    Attributes:
        protocol: `/tolsey/<name>/<version>`.
        max_request_bytes, max_reply_bytes: refused before they are read.
        deadline_s: for the whole exchange, on either side.
        max_per_peer: requests of one peer served at once.
    """

    protocol: str
    max_request_bytes: int
    max_reply_bytes: int
    deadline_s: float = 10.0
    max_per_peer: int = 8

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.protocol):
            raise LocalViolation(f"protocol {self.protocol!r} is not /tolsey/<name>/<version>")

    async def call(self, host: Host, peer_id: str, raw: bytes) -> bytes:
        """The peer's reply to `raw`.

        Raises:
            RpcRefused: the peer said no; look at its code.
            PeerUnreachable, PeerTimeout: no answer; try another peer, or later.
            RemoteViolation: the reply breaks the framing; the peer's score has fallen already.
        """
        if len(raw) > self.max_request_bytes:
            raise LocalViolation(f"request of {len(raw)} bytes on {self.protocol}, limit {self.max_request_bytes}")
        reached = False
        try:
            with trio.fail_after(self.deadline_s):
                async with await host.open_stream(peer_id, self.protocol) as stream:
                    reached = True
                    await stream.write_frame(raw)
                    reply = await stream.read_frame(1 + max(self.max_reply_bytes, MAX_ERROR_BYTES + 33))
            return self._opened(peer_id, reply)
        except trio.TooSlowError as error:
            if reached:  # who cannot be reached is not to blame
                host.scores.lower(peer_id, scores.UNRELIABLE, f"{self.protocol}: no reply")
            raise PeerTimeout(f"{peer_id} did not answer {self.protocol} in {self.deadline_s} s") from error
        except RemoteViolation as error:
            host.blame(error, peer_id, self.protocol)
            raise

    def _opened(self, peer_id: str, reply: bytes) -> bytes:
        if reply[:1] == _OK and len(reply) - 1 <= self.max_reply_bytes:
            return reply[1:]
        if reply[:1] == _ERROR and len(reply) >= 2 and len(reply) >= 2 + reply[1]:
            code = reply[2 : 2 + reply[1]].decode("ascii", "replace")
            if _CODE.fullmatch(code):
                raise RpcRefused(code, reply[2 + reply[1] :].decode("utf-8", "replace")[:MAX_ERROR_BYTES])
        raise RemoteViolation(
            f"{peer_id} sent a malformed reply of {len(reply)} bytes on {self.protocol}",
            peer_id=peer_id,
            evidence=reply[:256],
        )


def serve(host: Host, rpc: Rpc, handler: Handler) -> None:
    """Answers `rpc` on `host`: `handler(peer_id, request)` returns the reply.

    A `RemoteViolation` or `NetworkError` from the handler becomes an error reply (and, for the first, a lower score);
    any other exception is a bug and ends the host. The handler must turn its chain and storage errors into
    `RpcRefused("unavailable", …)` itself, because only it knows whether they are worth stopping for. A handler that
    takes longer than the deadline is cut off, and the caller told `unavailable`: that is not the caller's fault. A
    violation that names another peer (one that the handler asked) is that peer's.
    """

    async def answer(stream: Stream) -> None:
        with trio.fail_after(rpc.deadline_s):
            request = await stream.read_frame(rpc.max_request_bytes)
        parts = await _answered(host, rpc, handler, stream.peer_id, request)
        with trio.fail_after(rpc.deadline_s):
            await stream.write_frame(*parts)

    host.serve(rpc.protocol, answer, max_per_peer=rpc.max_per_peer)


async def _answered(host: Host, rpc: Rpc, handler: Handler, peer_id: str, request: bytes) -> tuple[bytes, ...]:
    try:
        with trio.fail_after(rpc.deadline_s):
            reply = await handler(peer_id, request)
    except RpcRefused as error:
        return _error(error.code, error.message.removeprefix(f"{error.code}: "))
    except RemoteViolation as error:
        host.blame(error, peer_id, rpc.protocol)
        return _error("violation" if error.peer_id in ("", peer_id) else "unavailable", error.message)
    except NetworkError as error:
        return _error("unavailable", error.message)
    except trio.TooSlowError:
        _log.warning("%s: no answer within %s s of our own", rpc.protocol, rpc.deadline_s)
        return _error("unavailable", f"no answer within {rpc.deadline_s} s")
    if len(reply) > rpc.max_reply_bytes:
        raise LocalViolation(
            f"our reply of {len(reply)} bytes on {rpc.protocol} is above its limit {rpc.max_reply_bytes}"
        )
    return _OK, reply


def _error(code: str, message: str) -> tuple[bytes, ...]:
    if not _CODE.fullmatch(code):
        raise LocalViolation(f"error code {code!r} is not lower-case letters, digits and hyphens")
    raw = message.encode()[: MAX_ERROR_BYTES - 1 - len(code)]
    return _ERROR, bytes([len(code)]), code.encode(), raw
