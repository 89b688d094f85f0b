"""From public randomness and secrets to the segments that are replayed, and the odds that a cheat slips through.

Nobody can know the draw when the worker commits: the seed mixes the window root (final by then), the client's secret
(its hash is in the signed offer) and a later block's randomness; each verifier adds a salt from a secret whose hash
it registered before the job existed. On chains where the block's randomness is constant the secrets alone carry it.

Solidity twin: libraries/DrawLib.sol. Shared vectors: tests/vectors/draw.json. Spec: docs/protocol.md 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from tolsey.protocol.encoding import TAG_DRAW, TAG_SEAL, TAG_SEED, address_word, keccak256, tag, word
from tolsey.protocol.units import Account, JobId, WindowRoot

SEED_BITS = 112
SALT_BITS = 128
VERIFIERS, SEGMENTS, PANEL = 1, 2, 3


def window_seed(job_id: JobId, window: int, root: WindowRoot, client_secret: bytes, beacon: int) -> int:
    """The public seed of one window (112 bits); `client_secret` is 32 zero bytes where the client kept silent."""
    digest = keccak256(tag(TAG_SEED), job_id, word(window), root, client_secret, word(beacon))
    return int.from_bytes(digest, "big") % (1 << SEED_BITS)


def verifier_salt(secret: bytes, job_id: JobId, window: int) -> int:
    """A verifier's own salt for one window (128 bits), fixed by the secret it registered."""
    digest = keccak256(tag(TAG_SEAL), secret, job_id, word(window))
    return int.from_bytes(digest, "big") % (1 << SALT_BITS)


def draw(key: bytes, population: int, count: int) -> list[int]:
    """`count` different numbers of range(population), each equally likely, in drawing order."""
    if count > population:
        raise ValueError(f"cannot draw {count} of {population}")
    moved: dict[int, int] = {}
    drawn = []
    for i in range(count):
        r = i + int.from_bytes(keccak256(tag(TAG_DRAW), key, word(i)), "big") % (population - i)
        drawn.append(moved.get(r, r))
        moved[r] = moved.get(i, i)
    return drawn


def drawn_verifier_ids(seed: int, pool_size: int, verifier_count: int) -> list[int]:
    """Ids in the class pool that owe a verdict on the window of this seed."""
    return draw(keccak256(word(VERIFIERS), word(seed)), pool_size, min(verifier_count, pool_size))


def verifier_sample(seed: int, salt: int, window_segment_count: int, sample_count: int) -> list[int]:
    """Places in the window that the verifier with this salt replays."""
    key = keccak256(word(SEGMENTS), word(seed), word(salt))
    return draw(key, window_segment_count, min(sample_count, window_segment_count))


def panel_order(dispute_id: bytes, round_: int, beacon: int, pool_size: int) -> list[int]:
    """The whole pool in the order in which a dispute's panel is filled from it; `beacon` as `PanelDrawn` tells it."""
    return draw(keccak256(word(PANEL), dispute_id, word(round_), word(beacon)), pool_size, pool_size)


def verdict_seal(job_id: JobId, window: int, verifier: Account, kind: int, segment: int, salt: int) -> bytes:
    """What a verifier puts on chain before it tells its verdict: bound to the sender, so that nobody can copy it."""
    digest = keccak256(
        tag(TAG_SEAL), job_id, word(window), address_word(verifier), word(kind), word(segment), word(salt)
    )
    return (int.from_bytes(digest, "big") | 1 << 255).to_bytes(32, "big")


def challenge_seal(challenger: Account, job_id: JobId, segment: int, claimed_root: bytes, salt: bytes) -> bytes:
    """Announces a challenge one block ahead, so that a copied transaction comes too late."""
    return keccak256(tag(TAG_SEAL), address_word(challenger), job_id, word(segment), claimed_root, salt)


def vote_seal(dispute_id: bytes, round_: int, voter: Account, vote: int, salt: bytes) -> bytes:
    """A panel member's sealed vote."""
    return keccak256(tag(TAG_SEAL), dispute_id, word(round_), address_word(voter), word(vote), salt)


def dispute_id(job_id: JobId, segment: int) -> bytes:
    """The claim a dispute is about: one game per job and segment, whoever plays it."""
    return keccak256(job_id, word(segment))


def detection_odds(segments: int, faked: int, samples: Sequence[int]) -> float:
    """Probability that at least one of several independent samples without repetition meets a faked segment.

    Args:
        segments: in the window. faked: how many of them are wrong. samples: size of each honest verifier's sample.
    """
    missed = 1.0
    for size in samples:
        size = min(size, segments)
        missed *= comb(segments - faked, size) / comb(segments, size) if size <= segments - faked else 0.0
    return 1.0 - missed
