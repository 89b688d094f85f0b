"""Binary Merkle trees of fixed depth: one shape for chunks, tensors, segments and steps.

Words: a *leaf* is a 32-byte hash given by the caller (tagged by its kind); a *node* is
keccak256(tag("tolsey/node/1") ‖ left ‖ right); the *depth* of a tree over n leaves is ceil(log2(n)); places past the
last leaf hold ZERO. The *root* is the one node left, the leaf itself where n = 1. A *proof* is the depth siblings of
a leaf, lowest first. The count n is always known from elsewhere (offer, file size) and fixes the proof's length.

Solidity twin: contracts/solidity/libraries/MerkleLib.sol. Shared vectors: tests/vectors/merkle.json.
"""

from __future__ import annotations

from collections.abc import Sequence

from tolsey.protocol.encoding import TAG_NODE, keccak256, tag

ZERO = bytes(32)
_NODE = tag(TAG_NODE)


def depth(count: int) -> int:
    """Levels between a leaf and the root of a tree over `count` >= 1 leaves."""
    if count < 1:
        raise ValueError("a tree has at least one leaf")
    return (count - 1).bit_length()


def node(left: bytes, right: bytes) -> bytes:
    """The inner node over two children of 32 bytes each."""
    return keccak256(_NODE, left, right)


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over `leaves` (at least one)."""
    return _levels(leaves)[-1][0]


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings that lead from `leaves[index]` to the root, lowest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    siblings = []
    for level, empty in zip(_levels(leaves)[:-1], _empties(depth(len(leaves))), strict=True):
        sibling = index ^ 1
        siblings.append(level[sibling] if sibling < len(level) else empty)
        index >>= 1
    return siblings


def verify(root_: bytes, count: int, index: int, leaf: bytes, siblings: Sequence[bytes]) -> bool:
    """Whether `leaf` stands at `index` of the tree of `count` leaves with that root.

    False, never an error, for anything malformed: a leaf or sibling of another length could move the cut between the
    two children of a node without changing its hash.
    """
    if not 0 <= index < count or len(siblings) != depth(count):
        return False
    if any(len(item) != 32 for item in (leaf, *siblings)):
        return False
    current = leaf
    for sibling in siblings:
        current = node(sibling, current) if index & 1 else node(current, sibling)
        index >>= 1
    return current == root_


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    levels = [list(leaves)]
    for empty in _empties(depth(len(leaves))):
        below = levels[-1]
        if len(below) % 2:
            below = [*below, empty]
        levels.append([node(below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def _empties(levels: int) -> list[bytes]:
    """For each level, the node over nothing but ZERO leaves."""
    out, current = [], ZERO
    for _ in range(levels):
        out.append(current)
        current = node(current, current)
    return out
