"""One error out of a nursery that holds one error: what its callers can catch by name.

trio wraps whatever leaves a nursery into a group, even a lone exception from the body of `async with`. A caller of
this room should be able to write `except PeerUnreachable`. Groups with several different errors stay groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raises the only error of an exception group in the group's place."""
    lone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(leaves_of(group))
        if len(leaves) != 1:
            raise
        lone = leaves[0]
    if lone is not None:
        raise lone


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error
