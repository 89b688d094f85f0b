"""The law's own functions against the vectors that Solidity wrote (tests/contracts checks the plain hashes)."""

from __future__ import annotations

import json
from pathlib import Path

from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.offer import seal_chain
from tolsey.protocol.sampling import draw, drawn_verifier_ids, panel_order, verifier_sample

GIVEN = {
    name: bytes.fromhex(text[2:])
    for name, text in json.loads((Path(__file__).parents[1] / "vectors" / "hashes.json").read_text()).items()
}
MARKET, WHO = "0x" + "aa".rjust(40, "0"), "0x" + "bb".rjust(40, "0")


def test_segment_leaf_is_the_contracts() -> None:
    leaf = segment_leaf(
        chain_id=31_337, market=MARKET, job_id=GIVEN["jobId"], worker=WHO, index=5, input_root=GIVEN["inputRoot"],
        output_root=GIVEN["outputRoot"],
    )  # fmt: skip
    assert leaf == GIVEN["leaf5"]


def test_seal_chain_of_one_window_ends_in_the_contracts_seal() -> None:
    assert seal_chain(GIVEN["secret"], 1) == [GIVEN["secret"], GIVEN["sealOfSecret"]]


def test_the_three_draws_use_the_contracts_keys() -> None:
    dispute, beacon = GIVEN["disputeIdSegment5"], int.from_bytes(GIVEN["beacon"], "big")
    assert drawn_verifier_ids(9, 20, 5) == draw(GIVEN["verifiersKeySeed9"], 20, 5)
    assert verifier_sample(9, 77, 40, 6) == draw(GIVEN["sampleKeySeed9Salt77"], 40, 6)
    assert panel_order(dispute, 1, beacon, 9) == draw(GIVEN["panelKeyRound1"], 9, 9)
