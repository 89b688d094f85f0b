"""What the network tests share: hosts by the number, and a content store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
import trio

from tolsey.network.host import Host, Identity, Limits, open_host
from tolsey.network.streams import Stream
from tolsey.protocol.content import CHUNK_BYTES, ContentId, Manifest, manifest_of

Nodes = Callable[..., AbstractAsyncContextManager[list[Host]]]


class MemoryStore:
    """One content; `lie` replaces chunks by other bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.lie: dict[int, bytes] = {}
        self.reads: list[int] = []
        self.held = manifest_of(raw[i : i + CHUNK_BYTES] for i in range(0, len(raw), CHUNK_BYTES))

    @property
    def content_id(self) -> ContentId:
        return self.held.content_id

    def manifest(self, content_id: ContentId) -> Manifest | None:
        return self.held if content_id == self.content_id else None

    def read_chunk(self, content_id: ContentId, index: int) -> bytes:
        self.reads.append(index)
        return self.lie.get(index, self.raw[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


@pytest.fixture
def store() -> type[MemoryStore]:
    return MemoryStore


@pytest.fixture
def nodes() -> Nodes:
    """`async with nodes(2) as (a, b)`: running hosts on loopback."""

    @asynccontextmanager
    async def make(count: int, limits: Limits | None = None) -> AsyncIterator[list[Host]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(open_host(Identity.generate(), limits=limits)) for _ in range(count)]

    return make


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """`await eventually(lambda: …)`: until it is true; TooSlowError after 15 s. For states that tell nobody."""

    async def wait(condition: Callable[[], object]) -> None:
        with trio.fail_after(15):
            while not condition():  # noqa: ASYNC110  # the library has no event for it
                await trio.sleep(0.01)

    return wait


@pytest.fixture
def stall() -> Callable[[Stream], Awaitable[None]]:
    """A handler that reads nothing and never ends."""

    async def handler(_stream: Stream) -> None:
        await trio.sleep_forever()

    return handler
