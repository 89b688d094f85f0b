"""Content transfer: any size, several sources, liars, slow and dead ones, and taking up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import trio

from tolsey.errors import PeerUnreachable, RemoteViolation, StorageError
from tolsey.network import partfile, pulling, transfer
from tolsey.network.host import Host, Identity, Limits, open_host
from tolsey.network.partfile import PartFile
from tolsey.network.pulling import TooLarge
from tolsey.network.transfer import UploadCaps, fetch, serve_content
from tolsey.network.wire import OP_DONE, OP_MANIFEST
from tolsey.protocol.content import CHUNK_BYTES, ContentId, chunk_hash

MANY = 12 * CHUNK_BYTES + 12345


def source(host: Host) -> tuple[str, list[str]]:
    return host.peer_id, host.addrs


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, MANY])
async def test_fetch_any_size_equal_bytes(nodes, store, tmp_path, size):
    held = store(os.urandom(size))
    seen = []
    async with nodes(2) as (a, b):
        serve_content(a, held)
        manifest = await fetch(
            b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY, on_progress=lambda *p: seen.append(p)
        )
    assert manifest == held.held and (tmp_path / "x").read_bytes() == held.raw
    assert os.listdir(tmp_path) == ["x"]
    assert len(seen) == len(manifest.chunk_hashes) and (not seen or seen[-1] == (size, size))


async def test_fetch_two_sources_both_used(nodes, store, tmp_path):
    raw = os.urandom(MANY)
    one, two = store(raw), store(raw)
    async with nodes(3) as (a, b, c):
        serve_content(a, one, UploadCaps(peer_bps=8e6))  # neither is quick enough to finish alone at once
        serve_content(b, two, UploadCaps(peer_bps=8e6))
        await fetch(c, one.content_id, [source(a), source(b)], tmp_path / "x", max_bytes=MANY)
    assert (tmp_path / "x").read_bytes() == raw
    assert one.reads and two.reads and len(one.reads) + len(two.reads) <= 13 + pulling.WINDOW


async def test_fetch_lying_source_dropped_and_refused(nodes, store, tmp_path):
    raw = os.urandom(MANY)
    honest, liar = store(raw), store(raw)
    liar.lie = {i: os.urandom(CHUNK_BYTES) for i in range(13)}
    async with nodes(3) as (a, b, c):
        serve_content(a, honest)
        serve_content(b, liar)
        await fetch(c, honest.content_id, [source(b), source(a)], tmp_path / "x", max_bytes=MANY)
        assert (tmp_path / "x").read_bytes() == raw
        assert c.scores.is_refused(b.peer_id) and not c.scores.is_refused(a.peer_id)


async def test_fetch_only_liars_writes_no_wrong_byte(nodes, store, tmp_path):
    liar = store(os.urandom(3 * CHUNK_BYTES))
    liar.lie = {1: os.urandom(CHUNK_BYTES)}
    async with nodes(2) as (a, b):
        serve_content(a, liar)
        with pytest.raises(PeerUnreachable, match="chunk 1 hashes to"):
            await fetch(b, liar.content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").read_bytes()[CHUNK_BYTES : 2 * CHUNK_BYTES] == bytes(CHUNK_BYTES)


async def test_fetch_other_manifest_is_a_lie(nodes, store, tmp_path):
    held, other = store(b"asked"), store(b"given")
    held.held = other.held
    asked = ContentId(store(b"asked").content_id)
    held.manifest = lambda _id: other.held
    async with nodes(2) as (a, b):
        serve_content(a, held)
        with pytest.raises(PeerUnreachable, match="manifest is of content"):
            await fetch(b, asked, [source(a)], tmp_path / "x", max_bytes=MANY)
        assert b.scores.is_refused(a.peer_id)


async def test_fetch_stalled_source_does_not_set_the_pace(nodes, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pulling, "TAKE_OVER_S", 0.3)
    raw = os.urandom(MANY)
    good, stuck = store(raw), store(raw)
    release = threading.Event()
    read = stuck.read_chunk

    def blocked(content_id, index):
        if len(stuck.reads) >= 1:
            release.wait(20)
        return read(content_id, index)

    stuck.read_chunk = blocked
    async with nodes(3) as (a, b, c):
        serve_content(a, good)
        serve_content(b, stuck)
        with trio.fail_after(15):
            await fetch(c, good.content_id, [source(b), source(a)], tmp_path / "x", max_bytes=MANY)
        release.set()
    assert (tmp_path / "x").read_bytes() == raw


async def test_fetch_silent_source_ends_by_deadline(nodes, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pulling, "MANIFEST_S", 0.2)
    monkeypatch.setattr(pulling, "PAUSES_S", (0.05,))
    async with nodes(2) as (a, b):

        async def mute(stream):
            await trio.sleep_forever()

        a.serve(transfer.PROTOCOL, mute)
        with pytest.raises(PeerUnreachable, match="no answer within"):
            await fetch(b, store(b"x").content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
        assert b.scores.score(a.peer_id) < 0


async def test_fetch_source_gone_midway_other_carries_on(store, tmp_path):
    raw = os.urandom(MANY)
    one, two = store(raw), store(raw)
    async with open_host(Identity.generate()) as a, open_host(Identity.generate()) as c:
        serve_content(a, one, UploadCaps(peer_bps=20e6))
        dying = trio.CancelScope()

        def progress(done: int, _total: int) -> None:
            if done > 4 * CHUNK_BYTES:
                dying.cancel()

        async def dies(task_status):
            with dying:
                async with open_host(Identity.generate()) as b:
                    serve_content(b, two, UploadCaps(peer_bps=20e6))
                    task_status.started(source(b))
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            doomed = await nursery.start(dies)
            await fetch(c, one.content_id, [doomed, source(a)], tmp_path / "x", max_bytes=MANY, on_progress=progress)
        assert dying.cancel_called
    assert (tmp_path / "x").read_bytes() == raw


async def test_fetch_taken_up_again_asks_only_for_the_rest(nodes, store, tmp_path):
    held = store(os.urandom(MANY))
    async with nodes(2) as (a, b):
        serve_content(a, held)
        with trio.CancelScope() as scope:

            def progress(done: int, _total: int) -> None:
                if done >= 6 * CHUNK_BYTES:
                    scope.cancel()

            await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY, on_progress=progress)
        assert scope.cancelled_caught and not (tmp_path / "x").exists()
        # One chunk that the journal claims rots meanwhile.
        rotten = int.from_bytes((tmp_path / "x.done").read_bytes()[32:36], "big")
        raw = bytearray((tmp_path / "x.part").read_bytes())
        raw[rotten * CHUNK_BYTES] ^= 1
        (tmp_path / "x.part").write_bytes(raw)
        kept = (len((tmp_path / "x.done").read_bytes()) - 32) // 4 - 1
        held.reads.clear()
        await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
    assert (tmp_path / "x").read_bytes() == held.raw
    assert rotten in held.reads and len(held.reads) == 13 - kept


PULLER = """
import json, sys, trio, pathlib
from tolsey.network.host import Identity, open_host
from tolsey.network.transfer import fetch
async def main(content_id, peer_id, addrs, into):
    async with open_host(Identity.generate()) as host:
        await fetch(host, bytes.fromhex(content_id), [(peer_id, addrs)], pathlib.Path(into), max_bytes=1 << 30,
                    on_progress=lambda done, total: print(done, flush=True))
trio.run(main, *json.loads(sys.argv[1]))
"""


async def test_fetch_killed_process_taken_up_again(nodes, store, tmp_path):
    held = store(os.urandom(MANY))
    async with nodes(2) as (a, b):
        serve_content(a, held, UploadCaps(peer_bps=4e6))
        args = json.dumps([held.content_id.hex(), a.peer_id, a.addrs, str(tmp_path / "x")])
        child = subprocess.Popen(  # noqa: ASYNC220  # a real process, killed for real
            [sys.executable, "-c", PULLER, args], stdout=subprocess.PIPE, text=True
        )
        for _ in range(5):
            assert await trio.to_thread.run_sync(child.stdout.readline)
        child.send_signal(signal.SIGKILL)
        assert await trio.to_thread.run_sync(child.wait) == -signal.SIGKILL
        child.stdout.close()
        held.reads.clear()
        serve_content(a, held)
        await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
    assert (tmp_path / "x").read_bytes() == held.raw and len(held.reads) <= 13 - 5


async def test_fetch_too_large_refused_before_the_disk(nodes, store, tmp_path):
    held = store(os.urandom(CHUNK_BYTES + 5))
    async with nodes(2) as (a, b):
        serve_content(a, held)
        with pytest.raises(TooLarge, match=f"has {CHUNK_BYTES + 5} bytes, allowed are {CHUNK_BYTES + 4}"):
            await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=CHUNK_BYTES + 4)
        with pytest.raises(PeerUnreachable, match="offers a manifest of"):
            await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=CHUNK_BYTES)
        assert b.scores.score(a.peer_id) == 0
    assert os.listdir(tmp_path) == []


async def test_fetch_without_room_asks_for_what_is_missing_and_takes_no_chunk(nodes, store, tmp_path):
    held, asked = store(os.urandom(3 * CHUNK_BYTES + 5)), []

    def refuse(size: int) -> None:
        asked.append(size)
        raise StorageError("no room")

    async with nodes(2) as (a, b):
        serve_content(a, held)
        with pytest.raises(StorageError, match="no room"):
            await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY, require_room=refuse)
        assert held.reads == [] and asked == [3 * CHUNK_BYTES + 5]
        await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY, require_room=asked.append)
    assert (tmp_path / "x").read_bytes() == held.raw and asked == 2 * [3 * CHUNK_BYTES + 5]


async def test_fetch_not_here_blames_nobody_on_either_side(nodes, store, tmp_path, eventually):
    asked = []
    decode = transfer.Request.decode

    async with nodes(2) as (a, b):
        serve_content(a, store(b"something"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer.Request, "decode", lambda raw, peer: asked.append(raw[0]) or decode(raw, peer))
            with pytest.raises(PeerUnreachable, match="does not have it"):
                await fetch(b, store(b"else").content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
            await eventually(lambda: not a._open)
        assert asked == [OP_MANIFEST, OP_DONE]
        assert b.scores.score(a.peer_id) == 0 and a.scores.score(b.peer_id) == 0


async def test_fetch_missing_content_fifty_times_bans_nobody(nodes, store, tmp_path, eventually):
    async with nodes(2) as (a, b):
        serve_content(a, store(b"something"))
        for i in range(50):
            with pytest.raises(PeerUnreachable, match="does not have it"):
                await fetch(b, store(b"%d" % i).content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
        await eventually(lambda: not a._open)
        assert b.scores.score(a.peer_id) == 0 and a.scores.score(b.peer_id) == 0


async def test_fetch_chunk_gone_meanwhile_blames_nobody(nodes, store, tmp_path, eventually):
    held = store(os.urandom(MANY))

    def rotten(_content_id, index):
        raise StorageError(f"chunk {index} is unreadable")

    held.read_chunk = rotten
    async with nodes(2) as (a, b):
        serve_content(a, held)
        with pytest.raises(PeerUnreachable, match="does not have it"):
            await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
        await eventually(lambda: not a._open)
        assert b.scores.score(a.peer_id) == 0 and a.scores.score(b.peer_id) == 0


@pytest.mark.parametrize(("raw", "costs"), [(b"", 0.0), (b"\x00\x00\x00\x25\x01", 5.0)])
async def test_serve_stream_ended_costs_only_within_a_frame(nodes, store, eventually, raw, costs):
    async with nodes(2) as (a, b):
        serve_content(a, store(b"x"))
        await b.connect(a.addrs[0])
        async with await b.open_stream(a.peer_id, transfer.PROTOCOL) as stream:
            await stream.write(raw)
            await eventually(lambda: a._open)
        await eventually(lambda: not a._open)
        assert a.scores.score(b.peer_id) == pytest.approx(-costs, abs=0.1)


async def test_fetch_source_cannot_be_reached_is_not_blamed(nodes, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pulling, "PAUSES_S", (0.05,))
    async with nodes(1) as (a,):
        gone = Identity.generate().peer_id
        with pytest.raises(PeerUnreachable):
            await fetch(a, store(b"x").content_id, [(gone, ["/ip4/127.0.0.1/tcp/1"])], tmp_path / "x", max_bytes=MANY)
        assert a.scores.score(gone) == 0


async def test_fetch_no_source_says_so(nodes, store, tmp_path):
    async with nodes(1) as (a,):
        with pytest.raises(PeerUnreachable, match="no source is known"):
            await fetch(a, store(b"x").content_id, [], tmp_path / "x", max_bytes=MANY)


async def test_serve_busy_is_tried_again(nodes, store, tmp_path):
    held = store(os.urandom(CHUNK_BYTES))
    async with nodes(3) as (a, b, c):
        serve_content(a, held, UploadCaps(max_uploads=1))
        await c.connect(a.addrs[0])
        first = await c.open_stream(a.peer_id, transfer.PROTOCOL)
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY))
            await trio.sleep(0.2)
            assert not (tmp_path / "x").exists()
            await first.reset()
    assert (tmp_path / "x").read_bytes() == held.raw


async def test_serve_peer_bps_sets_the_rate(nodes, store, tmp_path):
    held = store(os.urandom(4 * CHUNK_BYTES))
    async with nodes(2) as (a, b):
        serve_content(a, held, UploadCaps(peer_bps=2 * CHUNK_BYTES))
        start = trio.current_time()
        await fetch(b, held.content_id, [source(a)], tmp_path / "x", max_bytes=MANY)
    assert 0.9 < trio.current_time() - start < 3


async def test_serve_malformed_request_is_a_violation(nodes, store):
    async with nodes(2, Limits()) as (a, b):
        serve_content(a, store(b"x"))
        await b.connect(a.addrs[0])
        async with await b.open_stream(a.peer_id, transfer.PROTOCOL) as stream:
            await stream.write_frame(b"\x09" + bytes(36))
            with pytest.raises(PeerUnreachable):
                await stream.read_exactly(1)
        assert a.scores.score(b.peer_id) < -30


def test_partfile_wrong_chunk_not_written(store, tmp_path):
    held = store(os.urandom(CHUNK_BYTES + 10))
    part = PartFile(tmp_path / "x", held.held)
    wrong = bytes(10)
    with pytest.raises(RemoteViolation, match=chunk_hash(wrong).hex()):
        part.write(1, wrong)
    with pytest.raises(StorageError, match="lacks 2 of 2"):
        part.finish()
    part.close()


def test_partfile_disk_space_taken_before_the_bytes(store, tmp_path, monkeypatch):
    monkeypatch.setattr(partfile, "REGION_BYTES", 2 * CHUNK_BYTES)
    held = store(bytes(3 * CHUNK_BYTES + 5))
    part = PartFile(tmp_path / "x", held.held)
    part.write(1, held.read_chunk(held.content_id, 1))
    assert 2 * CHUNK_BYTES <= part.part.stat().st_blocks * 512 < 3 * CHUNK_BYTES
    part.write(3, held.read_chunk(held.content_id, 3))
    assert part.part.stat().st_size == 3 * CHUNK_BYTES + 5

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partfile.os, "posix_fallocate", full)
    part._allocated.clear()
    with pytest.raises(StorageError, match="No space left"):
        part.write(0, held.read_chunk(held.content_id, 0))
    assert part.done == {1, 3}
    part.close()


def test_partfile_second_writer_refused(store, tmp_path):
    held = store(b"words")
    part = PartFile(tmp_path / "x", held.held)
    with pytest.raises(StorageError, match="cannot use"):
        PartFile(tmp_path / "x", held.held)
    part.close()


def test_partfile_journal_of_other_content_ignored(store, tmp_path):
    one, two = store(b"words"), store(b"other")
    part = PartFile(tmp_path / "x", one.held)
    part.write(0, b"words")
    part.close()
    part = PartFile(tmp_path / "x", two.held)
    assert part.done == set()
    part.write(0, b"other")
    part.finish()
    part.close()
    assert (tmp_path / "x").read_bytes() == b"other"
