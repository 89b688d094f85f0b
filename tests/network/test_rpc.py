"""Request and reply: bounds, codes, deadlines, and who is blamed."""

from __future__ import annotations

import pytest
import trio

from tolsey.errors import LocalViolation, NetworkError, PeerTimeout, PeerUnreachable, RemoteViolation
from tolsey.network.host import Identity
from tolsey.network.rpc import Rpc, RpcRefused, serve
from tolsey.network.scopes import leaves_of

BOOK = Rpc(protocol="/tolsey/book/1", max_request_bytes=100, max_reply_bytes=1000, deadline_s=3.0)


async def test_call_reply_comes_back_with_callers_id(nodes):
    async with nodes(2) as (a, b):

        async def answer(peer_id, raw):
            return peer_id.encode() + raw

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        assert await BOOK.call(a, b.peer_id, b"?") == a.peer_id.encode() + b"?"
        assert await BOOK.call(a, b.peer_id, b"") == a.peer_id.encode()


async def test_call_many_at_once_each_gets_its_own(nodes):
    async with nodes(2) as (a, b):

        async def answer(_peer_id, raw):
            return raw[::-1]

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        replies = {}

        async def ask(i):
            replies[i] = await BOOK.call(a, b.peer_id, b"%04d" % i)

        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(ask, i)
        assert replies == {i: (b"%04d" % i)[::-1] for i in range(8)}


@pytest.mark.parametrize(
    ("raised", "code", "costs"),
    [
        (RpcRefused("no-such-job", "never heard of it"), "no-such-job", False),
        (RemoteViolation("your signature is wrong"), "violation", True),
        (PeerUnreachable("the one I asked is gone"), "unavailable", False),
    ],
)
async def test_handler_error_travels_as_code(nodes, raised, code, costs):
    async with nodes(2) as (a, b):

        async def answer(_peer_id, _raw):
            raise raised

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(RpcRefused) as refused:
            await BOOK.call(a, b.peer_id, b"?")
        assert refused.value.code == code
        assert str(refused.value) == f"{code}: {raised.message.removeprefix(code + ': ')}"
        await trio.sleep(0.05)
        assert (b.scores.score(a.peer_id) < -30) == costs


async def test_handler_bug_ends_the_host(nodes):
    with pytest.raises((KeyError, BaseExceptionGroup)) as ended:  # with it, the caller's broken stream
        async with nodes(2) as (a, b):

            async def answer(_peer_id, _raw):
                raise KeyError("ours")

            serve(b, BOOK, answer)
            await a.connect(b.addrs[0])
            await BOOK.call(a, b.peer_id, b"?")
    assert any(isinstance(error, KeyError) for error in leaves_of(ended.value))


async def test_call_own_request_too_long_is_our_bug(nodes):
    async with nodes(1) as (a,):
        with pytest.raises(LocalViolation, match="101 bytes"):
            await BOOK.call(a, a.peer_id, bytes(101))


async def test_serve_request_too_long_is_refused_unread(nodes):
    async with nodes(2) as (a, b):
        called = []

        async def answer(_peer_id, raw):
            called.append(raw)
            return b""

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        greedy = Rpc(protocol=BOOK.protocol, max_request_bytes=10_000, max_reply_bytes=10)
        with pytest.raises(NetworkError):
            await greedy.call(a, b.peer_id, bytes(101))
        assert not called and b.scores.score(a.peer_id) < -30


@pytest.mark.parametrize("reply", [b"", b"\x02hello", b"\x01", b"\x01\x05no", b"\x00" + bytes(1001), b"\x01\x03NO!x"])
async def test_call_malformed_reply_is_a_violation(nodes, reply):
    async with nodes(2) as (a, b):

        async def answer(stream):
            await stream.read_frame(1000)
            await stream.write_frame(reply)

        b.serve(BOOK.protocol, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(RemoteViolation) as violation:
            await BOOK.call(a, b.peer_id, b"?")
        assert violation.value.peer_id == b.peer_id and a.scores.score(b.peer_id) < -30


async def test_call_reply_of_4_gib_announced_is_a_violation(nodes):
    async with nodes(2) as (a, b):

        async def answer(stream):
            await stream.write(b"\xff\xff\xff\xff")
            await trio.sleep_forever()

        b.serve(BOOK.protocol, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(RemoteViolation, match="4294967295 bytes"):
            await BOOK.call(a, b.peer_id, b"?")


async def test_call_silent_peer_times_out(nodes):
    quick = Rpc(protocol="/tolsey/slow/1", max_request_bytes=10, max_reply_bytes=10, deadline_s=0.3)
    async with nodes(2) as (a, b):

        async def answer(stream):
            await trio.sleep_forever()

        b.serve(quick.protocol, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(PeerTimeout, match=r"in 0\.3 s"):
            await quick.call(a, b.peer_id, b"?")
        assert a.scores.score(b.peer_id) == pytest.approx(-5, abs=0.1)


@pytest.mark.parametrize(("raw", "costs"), [(b"", 0.0), (b"\x00\x00", 5.0), (b"\x00\x00\x00\x09half", 5.0)])
async def test_serve_request_ended_costs_only_within_a_frame(nodes, eventually, raw, costs):
    async with nodes(2) as (a, b):

        async def answer(_peer_id, _raw):
            raise AssertionError("there was no request")

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        async with await a.open_stream(b.peer_id, BOOK.protocol) as stream:
            await stream.write(raw)
        await eventually(lambda: not b._open)
        assert b.scores.score(a.peer_id) == pytest.approx(-costs, abs=0.1)


async def test_serve_own_handler_too_slow_blames_nobody(nodes, caplog):
    quick = Rpc(protocol="/tolsey/slow/1", max_request_bytes=10, max_reply_bytes=10, deadline_s=0.3)
    patient = Rpc(protocol="/tolsey/slow/1", max_request_bytes=10, max_reply_bytes=10, deadline_s=10.0)
    async with nodes(2) as (a, b):

        async def answer(_peer_id, _raw):
            await trio.sleep_forever()

        serve(b, quick, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(RpcRefused, match=r"no answer within 0\.3 s") as refused:
            await patient.call(a, b.peer_id, b"?")
        assert refused.value.code == "unavailable"
        assert a.scores.score(b.peer_id) == b.scores.score(a.peer_id) == 0


async def test_serve_violation_of_a_third_peer_is_not_the_callers(nodes):
    async with nodes(3) as (a, b, c):

        async def answer(_peer_id, _raw):
            raise RemoteViolation("the one I asked lied", peer_id=c.peer_id)

        serve(b, BOOK, answer)
        await a.connect(b.addrs[0])
        with pytest.raises(RpcRefused) as refused:
            await BOOK.call(a, b.peer_id, b"?")
        assert refused.value.code == "unavailable"
        assert b.scores.score(a.peer_id) == 0 and b.scores.score(c.peer_id) < -30


async def test_call_refused_gone_or_unknown_blames_nobody(nodes):
    async with nodes(2) as (a, b):
        await a.connect(b.addrs[0])
        with pytest.raises(PeerUnreachable, match="does not speak"):
            await BOOK.call(a, b.peer_id, b"?")

        async def gone(stream):
            await stream.reset()

        b.serve(BOOK.protocol, gone)
        with pytest.raises(PeerUnreachable):
            await BOOK.call(a, b.peer_id, b"?")
        assert a.scores.score(b.peer_id) == b.scores.score(a.peer_id) == 0


async def test_call_peer_that_cannot_be_reached_is_not_blamed(nodes, monkeypatch):
    quick = Rpc(protocol="/tolsey/slow/1", max_request_bytes=10, max_reply_bytes=10, deadline_s=0.2)
    async with nodes(1) as (a,):
        silent = Identity.generate().peer_id

        async def never(*_):
            await trio.sleep_forever()

        monkeypatch.setattr(a.basic, "new_stream", never)
        with pytest.raises(PeerTimeout):
            await quick.call(a, silent, b"?")
        assert a.scores.score(silent) == 0


@pytest.mark.parametrize("protocol", ["/tolsey/book", "/ipfs/book/1", "/tolsey/Book/1", "/tolsey/book/0"])
def test_rpc_protocol_name_checked(protocol):
    with pytest.raises(LocalViolation):
        Rpc(protocol=protocol, max_request_bytes=1, max_reply_bytes=1)
