"""Python computes what Solidity computed: the vectors that contracts/solidity/test/Vectors.t.sol writes and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tolsey.protocol import merkle, sampling
from tolsey.protocol.encoding import TAG_LEAF, TAG_SEAL, address_word, keccak256, tag, word
from tolsey.protocol.units import Account, JobId, WindowRoot

_VECTORS = Path(__file__).resolve().parents[1] / "vectors"
_MARKET = Account("0x00000000000000000000000000000000000000AA")
_WHO = Account("0x00000000000000000000000000000000000000bb")


def _load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_VECTORS / name).read_text())
    return content


def _raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def test_draw_every_case_gives_the_same_places() -> None:
    for case in _load("draw.json")["cases"]:
        assert sampling.draw(_raw(case["key"]), case["size"], case["count"]) == case["places"]


def test_merkle_every_case_gives_the_same_root_and_proof() -> None:
    for case in _load("merkle.json")["cases"]:
        leaves = [_raw(leaf) for leaf in case["leaves"]]
        proof = [_raw(sibling) for sibling in case["proof"]]
        assert merkle.root(leaves) == _raw(case["root"])
        assert merkle.proof(leaves, case["index"]) == proof
        assert merkle.verify(_raw(case["root"]), len(leaves), case["index"], leaves[case["index"]], proof)


def test_hashes_every_seal_and_seed_is_the_same() -> None:
    given = {name: _raw(text) for name, text in _load("hashes.json").items()}
    job, root = JobId(given["jobId"]), WindowRoot(given["root"])
    secret, output = given["secret"], given["outputRoot"]
    beacon = int.from_bytes(given["beacon"], "big")
    dispute = sampling.dispute_id(job, 5)
    computed = {
        "leaf5": keccak256(
            tag(TAG_LEAF), word(31337), address_word(_MARKET), job, address_word(_WHO), word(5),
            given["inputRoot"], output,
        ),
        "sealOfSecret": keccak256(tag(TAG_SEAL), secret),
        "seedOfWindow2": word(sampling.window_seed(job, 2, root, secret, beacon)),
        "saltOfWindow2": word(sampling.verifier_salt(secret, job, 2)),
        "verdictSealWindow2Mismatch5Salt77": sampling.verdict_seal(job, 2, _WHO, 2, 5, 77),
        "challengeSealSegment5SaltSecret": sampling.challenge_seal(_WHO, job, 5, output, secret),
        "disputeIdSegment5": dispute,
        "voteSealRound1Vote2SaltSecret": sampling.vote_seal(dispute, 1, _WHO, 2, secret),
        "verifiersKeySeed9": keccak256(word(1), word(9)),
        "sampleKeySeed9Salt77": keccak256(word(2), word(9), word(77)),
        "panelKeyRound1": keccak256(word(3), dispute, word(1), word(beacon)),
    }  # fmt: skip
    assert computed == {name: given[name] for name in computed}
