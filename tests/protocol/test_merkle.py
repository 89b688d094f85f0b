from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.protocol.encoding import keccak256, tag, word
from tolsey.protocol.merkle import ZERO, depth, node, proof, root, verify

HASH = st.binary(min_size=32, max_size=32)
LEAVES = st.lists(HASH, min_size=1, max_size=40)


def leaves(count: int) -> list[bytes]:
    return [keccak256(word(i)) for i in range(count)]


def test_node_is_tagged() -> None:
    assert node(b"l" * 32, b"r" * 32) == keccak256(tag(b"tolsey/node/1"), b"l" * 32, b"r" * 32)


@pytest.mark.parametrize(("count", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (65_536, 16), (65_537, 17)])
def test_depth_is_the_rounded_up_logarithm(count: int, levels: int) -> None:
    assert depth(count) == levels


def test_depth_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="at least one"):
        depth(0)


def test_root_of_one_leaf_is_the_leaf() -> None:
    assert root([b"x" * 32]) == b"x" * 32


def test_root_of_five_leaves_fills_empty_places_with_zero() -> None:
    a, b, c, d, e = leaves(5)
    empty = node(ZERO, ZERO)
    assert root([a, b, c, d, e]) == node(node(node(a, b), node(c, d)), node(node(e, ZERO), empty))


@given(LEAVES, st.data())
def test_proof_of_every_leaf_verifies(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    assert verify(root(items), len(items), index, items[index], proof(items, index))


@given(st.lists(HASH, min_size=2, max_size=40, unique=True), st.data())
def test_proof_for_another_index_leaf_or_count_fails(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    other = data.draw(st.integers(0, len(items) - 1).filter(lambda i: i != index))
    siblings, top = proof(items, index), root(items)
    assert not verify(top, len(items), other, items[index], siblings)
    assert not verify(top, len(items), index, items[other], siblings)
    assert not verify(top, len(items) * 2, index, items[index], siblings)


@given(st.lists(HASH, min_size=2, max_size=20), st.data())
def test_proof_with_one_bit_changed_fails(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    siblings = proof(items, index)
    place = data.draw(st.integers(0, len(siblings) - 1))
    bit = data.draw(st.integers(0, 255))
    siblings[place] = (int.from_bytes(siblings[place], "big") ^ (1 << bit)).to_bytes(32, "big")
    assert not verify(root(items), len(items), index, items[index], siblings)


def test_verify_of_an_empty_place_fails_although_its_hash_is_in_the_tree() -> None:
    items = leaves(3)
    siblings = [items[2], node(items[0], items[1])]
    assert node(siblings[1], node(items[2], ZERO)) == root(items)
    assert not verify(root(items), 3, 3, ZERO, siblings)


def test_verify_of_an_inner_node_as_a_leaf_fails() -> None:
    items = leaves(4)
    assert not verify(root(items), 4, 0, node(items[0], items[1]), [node(items[2], items[3])])
    assert not verify(root(items), 2, 0, items[0], proof(items, 0))


def test_proof_with_bytes_moved_between_leaf_and_sibling_fails() -> None:
    """The same concatenated preimage must not pass when the cut between the children is elsewhere."""
    items = leaves(2)
    joined = items[0] + items[1]
    assert not verify(root(items), 2, 0, joined[:33], [joined[33:]])
    assert not verify(root(items), 2, 0, joined[:31], [joined[31:]])


def test_verify_outside_the_tree_is_false_not_an_error() -> None:
    items = leaves(4)
    assert not verify(root(items), 4, -1, items[3], proof(items, 3))
    assert not verify(root(items), 4, 4, items[0], proof(items, 0))
    assert not verify(root(items), 0, 0, items[0], [])


def test_proof_of_a_missing_leaf_raises() -> None:
    with pytest.raises(IndexError):
        proof(leaves(3), 3)
    with pytest.raises(IndexError):
        proof(leaves(3), -1)
