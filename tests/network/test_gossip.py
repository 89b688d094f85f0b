"""Gossip as other rooms see it: delivered, validated, bounded, said again."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from tolsey.errors import LocalViolation
from tolsey.network import gossip as gossip_module
from tolsey.network.gossip import MAX_MESSAGE_BYTES, open_gossip, reannounce


async def _mesh(stack: AsyncExitStack, hosts, eventually, topic="t", validators=()):
    """Everybody gossips, subscribes and knows that the others listen."""
    parts = [await stack.enter_async_context(open_gossip(host)) for host in hosts]
    inboxes = [await part.subscribe(topic, *validators[i : i + 1]) for i, part in enumerate(parts)]
    for host in hosts[1:]:
        await host.connect(hosts[0].addrs[0])
    await eventually(lambda: len(parts[0].listeners(topic)) == len(hosts) - 1)
    await eventually(lambda: all(part._pubsub.router.mesh.get(topic) for part in parts))
    return parts, inboxes


async def test_publish_reaches_everybody_with_the_authors_id(nodes, eventually):
    async with nodes(4) as hosts, AsyncExitStack() as stack:
        parts, inboxes = await _mesh(stack, hosts, eventually)
        await parts[1].publish("t", b"offer")  # 2 and 3 hear it through 0 alone
        for inbox in inboxes:
            with trio.fail_after(10):
                assert await inbox.receive() == (hosts[1].peer_id, b"offer")


async def test_publish_burst_of_80_all_arrive(nodes, eventually):
    async with nodes(2) as hosts, AsyncExitStack() as stack:
        parts, inboxes = await _mesh(stack, hosts, eventually)
        for i in range(80):
            await parts[0].publish("t", b"%d" % i)
        got = set()
        with trio.move_on_after(10):
            while len(got) < 80:
                got.add((await inboxes[1].receive())[1])
        assert len(got) == 80


async def test_invalid_message_dropped_and_forwarder_pays(nodes, eventually):
    async with nodes(2) as hosts, AsyncExitStack() as stack:
        parts, inboxes = await _mesh(
            stack, hosts, eventually, validators=(lambda _peer, _raw: True, lambda _peer, raw: raw.startswith(b"good"))
        )
        await parts[0].publish("t", b"bad")
        await parts[0].publish("t", b"good")
        with trio.fail_after(10):
            assert await inboxes[1].receive() == (hosts[0].peer_id, b"good")
        assert hosts[1].scores.score(hosts[0].peer_id) == pytest.approx(-gossip_module.INVALID_POINTS, rel=0.01)


async def test_forged_author_not_delivered(nodes, eventually):
    async with nodes(2) as hosts, AsyncExitStack() as stack:
        parts, inboxes = await _mesh(stack, hosts, eventually)
        forger = parts[0]._pubsub
        forger.strict_signing = False  # sends without a signature, and lets its own message pass
        await parts[0].publish("t", b"forged")
        forger.strict_signing = True
        await parts[0].publish("t", b"signed")
        with trio.fail_after(10):
            assert (await inboxes[1].receive())[1] == b"signed"


async def test_publish_above_2_kb_is_our_bug(nodes):
    async with nodes(1) as (host,), open_gossip(host) as part:
        await part.publish("t", bytes(MAX_MESSAGE_BYTES))
        with pytest.raises(LocalViolation, match=r"2049 bytes.*2048"):
            await part.publish("t", bytes(MAX_MESSAGE_BYTES + 1))


async def test_peer_above_2_kb_dropped(nodes, monkeypatch, eventually):
    async with nodes(2) as hosts, AsyncExitStack() as stack:
        parts, inboxes = await _mesh(stack, hosts, eventually)
        parts[0]._pubsub.remove_topic_validator("t")
        await parts[0]._pubsub.publish("t", bytes(MAX_MESSAGE_BYTES + 1))
        await parts[0].publish("t", b"small")
        with trio.fail_after(10):
            assert (await inboxes[1].receive())[1] == b"small"


async def test_subscribe_nobody_reads_drops_the_newest(nodes, monkeypatch):
    monkeypatch.setattr(gossip_module, "QUEUE_MESSAGES", 5)
    async with nodes(1) as (host,), open_gossip(host) as part:
        inbox = await part.subscribe("t")
        for i in range(9):
            await part.publish("t", b"%d" % i)
            await trio.sleep(0.01)
        assert [inbox.receive_nowait()[1] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        with pytest.raises(trio.WouldBlock):
            inbox.receive_nowait()


async def test_subscribe_twice_is_our_bug_until_closed(nodes, eventually):
    async with nodes(1) as (host,), open_gossip(host) as part:
        inbox = await part.subscribe("t")
        with pytest.raises(LocalViolation, match="subscribed to already"):
            await part.subscribe("t")
        await inbox.aclose()
        await part.publish("t", b"notices that nobody listens")
        await eventually(lambda: "t" not in part._pubsub.topic_ids)
        await part.subscribe("t")


class Recorder:
    def __init__(self) -> None:
        self.at_s: list[float] = []

    async def publish(self, _topic: str, _raw: bytes) -> None:
        self.at_s.append(trio.current_time())


async def test_reannounce_repeats_with_jitter(autojump_clock):
    said = Recorder()
    with trio.move_on_after(4500):
        await reannounce(said, "t", lambda: b"still here", interval_s=45, jitter=0.33)
    pauses = [later - earlier for earlier, later in zip(said.at_s, said.at_s[1:], strict=False)]
    assert 75 <= len(pauses) <= 125
    assert all(45 * 0.67 <= pause <= 45 * 1.33 for pause in pauses) and max(pauses) - min(pauses) > 5


async def test_reannounce_nothing_to_say_stays_silent(autojump_clock):
    said = Recorder()
    with trio.move_on_after(500):
        await reannounce(said, "t", lambda: None)
    assert said.at_s == []
