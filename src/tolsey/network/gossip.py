"""Small signed messages to everybody who listens to a topic: gossipsub 1.1, with 1.2 where a peer insists.

Best effort by design: 97 to 100 % arrive, so money never depends on it, and what matters is said again
(`reannounce`). A message is at most 2 kB, signed by its author's peer key, and checked by a cheap validator before it
is passed on. 1.1 is preferred because 1.2 announces messages of any size and doubles the cost of small ones.

Refused: messages above MAX_MESSAGE_BYTES, topics nobody here subscribed to, and peers above RATE_PER_TOPIC.
Next in the flow: the market rooms of node and client; whoever comes late asks a peer for the book over rpc.py.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.abc import ISubscriptionAPI
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub import pubsub as library
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.tools.anyio_service import background_trio_service

from tolsey.errors import LocalViolation
from tolsey.network.host import Host
from tolsey.network.scopes import unwrapped

MAX_MESSAGE_BYTES = 2048
MAX_RPC_BYTES = 256 << 10
"""A peer may pack several messages and control lists into one frame."""
RATE_PER_TOPIC = 100.0
"""Messages a second from one forwarding peer, and of our own; the library's 10 drops honest bursts in silence."""
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
HEARTBEAT_S = 1
QUEUE_MESSAGES = 1024
INVALID_POINTS = 2.0
"""What passing on an invalid message costs; little, because clocks and chain views differ."""
READY_S = 5.0

Validator = Callable[[str, bytes], bool]
Received = tuple[str, bytes]
_log = logging.getLogger(__name__)

# The library's queues, in from a topic and out to a peer, hold 32 and drop the rest before a task of ours runs.
library.SUBSCRIPTION_CHANNEL_SIZE = QUEUE_MESSAGES
setattr(library, "RpcQueue", functools.partial(RpcQueue, max_size=QUEUE_MESSAGES // 4))  # noqa: B010  # a class


class Gossip:
    """The topics of one host; made by `open_gossip` alone."""

    def __init__(self, host: Host, pubsub: Pubsub, nursery: trio.Nursery) -> None:
        self._host = host
        self._pubsub = pubsub
        self._nursery = nursery

    async def publish(self, topic: str, raw: bytes) -> None:
        """Sends `raw` to the topic's listeners, as far as they can be reached now.

        Raises:
            LocalViolation: `raw` is larger than MAX_MESSAGE_BYTES: a bug of the caller.
        """
        if len(raw) > MAX_MESSAGE_BYTES:
            raise LocalViolation(f"gossip message of {len(raw)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
        await self._pubsub.publish(topic, raw)

    async def subscribe(self, topic: str, validator: Validator | None = None) -> trio.MemoryReceiveChannel[Received]:
        """The topic's messages as (author's peer id, bytes), our own included.

        Args:
            validator: `(author, bytes) -> bool`, called before a message is delivered or passed on; it must be quick
                and must not wait. False drops the message and costs the forwarder a little of its score.

        The channel holds QUEUE_MESSAGES; when its reader sleeps the newest are dropped. Closing it unsubscribes.
        """
        if topic in self._pubsub.topic_ids:
            raise LocalViolation(f"topic {topic!r} is subscribed to already")
        self._pubsub.set_topic_validator(topic, self._checked(validator), is_async_validator=False)
        allowed = self._pubsub.allowed_topics or frozenset()
        self._pubsub.allowed_topics = allowed | {topic}
        subscription = await self._pubsub.subscribe(topic)
        send, receive = trio.open_memory_channel[Received](QUEUE_MESSAGES)
        self._nursery.start_soon(self._drain, topic, subscription, send)
        return receive

    def listeners(self, topic: str) -> list[str]:
        """Connected peers that said they listen to the topic."""
        return [str(peer) for peer in self._pubsub.peer_topics.get(topic, ())]

    def _checked(self, validator: Validator | None) -> Callable[[ID, rpc_pb2.Message], bool]:
        def check(forwarder: ID, message: rpc_pb2.Message) -> bool:
            valid = len(message.data) <= MAX_MESSAGE_BYTES and len(message.topicIDs) == 1
            if valid and validator is not None:
                valid = validator(str(ID(message.from_id)), message.data)
            if not valid and str(forwarder) != self._host.peer_id:
                self._host.punish(str(forwarder), INVALID_POINTS, "passed on an invalid message")
            return valid

        return check

    async def _drain(self, topic: str, subscription: ISubscriptionAPI, send: trio.MemorySendChannel[Received]) -> None:
        async with send:
            while True:
                message = await subscription.get()
                try:
                    send.send_nowait((str(ID(message.from_id)), message.data))
                except trio.WouldBlock:
                    _log.warning("nobody reads topic %s: message dropped", topic)
                except trio.BrokenResourceError:
                    break
        self._pubsub.remove_topic_validator(topic)
        self._pubsub.allowed_topics = (self._pubsub.allowed_topics or frozenset()) - {topic}
        await self._pubsub.unsubscribe(topic)


@asynccontextmanager
async def open_gossip(host: Host) -> AsyncIterator[Gossip]:
    """Gossip on `host` until the block is left; open it before connecting, because a peer asks once what we speak."""
    router = GossipSub(
        protocols=[TProtocol(PROTOCOL_ID_V11), TProtocol(PROTOCOL_ID_V12)],
        degree=DEGREE,
        degree_low=DEGREE_LOW,
        degree_high=DEGREE_HIGH,
        heartbeat_interval=HEARTBEAT_S,
        prune_back_off=10,
        adaptive_gossip_enabled=False,
        max_messages_per_topic_per_second=RATE_PER_TOPIC,
    )
    pubsub = Pubsub(
        host.basic,
        router,
        strict_signing=True,
        max_subscriptions_per_peer=64,
        max_inbound_rpc_size=MAX_RPC_BYTES,
        allowed_topics=frozenset(),
    )
    # It starts from whole seconds: a node that restarts within what it has sent would repeat numbers already seen.
    pubsub.counter = time.time_ns()
    with unwrapped():
        async with background_trio_service(router), background_trio_service(pubsub), trio.open_nursery() as nursery:
            with trio.fail_after(READY_S):
                await pubsub.wait_until_ready()
            try:
                yield Gossip(host, pubsub, nursery)
            finally:
                nursery.cancel_scope.cancel()


async def reannounce(
    gossip: Gossip, topic: str, make: Callable[[], bytes | None], *, interval_s: float = 45.0, jitter: float = 0.33
) -> None:
    """Publishes what `make` returns for ever, about every `interval_s`; nothing where it returns None.

    The pause is drawn anew from `interval_s` times 1 ± jitter, so that a thousand workers started together spread out.
    """
    while True:
        raw = make()
        if raw is not None:
            await gossip.publish(topic, raw)
        await trio.sleep(interval_s * random.uniform(1 - jitter, 1 + jitter))
