"""The committed artifacts are what the sources compile to, and the plans of the Solidity tests name every test."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tolsey.contracts import compile as building
from tolsey.contracts.artifacts import artifact

_TESTS = building.SOLIDITY / "test"
_INITCODE_LIMIT = 49_152  # EIP-3860
_PARAMS_BYTES = 14 * 32


def _stored(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((building.ARTIFACTS / f"{name}.json").read_bytes())
    return content


@pytest.mark.parametrize("name", sorted(building.CONTRACTS))
def test_artifact_own_sources_have_the_stored_hashes(name: str) -> None:
    stored = _stored(name)["sources"]
    own = {source: digest for source, digest in stored.items() if not source.startswith("@")}
    assert building.CONTRACTS[name] in own
    for source, digest in own.items():
        assert hashlib.sha256((building.SOLIDITY / source).read_bytes()).hexdigest() == digest, (
            f"{source} changed since {name} was compiled; run python -m tolsey.contracts.compile"
        )


@pytest.mark.forge
@pytest.mark.slow
def test_artifact_rebuild_gives_the_same_bytes() -> None:
    if shutil.which("node") is None or not (building.HERE.parent / "node_modules" / "solc").is_dir():
        pytest.skip("the Solidity compiler is not installed (npm ci)")
    assert building.differences() == []


@pytest.mark.forge
@pytest.mark.slow
def test_artifact_both_halves_lay_out_storage_alike() -> None:
    if shutil.which("node") is None or not (building.HERE.parent / "node_modules" / "solc").is_dir():
        pytest.skip("the Solidity compiler is not installed (npm ci)")
    sources = building._sources()
    settings = building._settings() | {
        "viaIR": False,  # the layout does not depend on the pipeline, and this one is quick
        "outputSelection": {"*": {"*": ["storageLayout"]}},
    }
    output = building._run_solc({"language": "Solidity", "sources": sources, "settings": settings})["contracts"]
    variables = [output[f"{name}.sol"][name]["storageLayout"]["storage"] for name in ("JobMarket", "MarketAnnex")]
    layouts = [[(item["label"], item["slot"], item["offset"]) for item in half] for half in variables]
    assert layouts[0] and layouts[0] == layouts[1]


def test_artifact_market_fits_the_chain() -> None:
    creation = len(artifact("JobMarket").bytecode) + _PARAMS_BYTES
    assert creation <= _INITCODE_LIMIT
    assert all(_stored(name)["runtimeBytes"] <= 24_576 for name in building.CONTRACTS)


def test_artifact_market_hands_on_every_call_of_its_other_half() -> None:
    wanted = {
        found
        for interface in ("IDisputes", "IRegistry")
        for found in re.findall(
            r"function (\w+)\(", (building.SOLIDITY / "interfaces" / f"{interface}.sol").read_text()
        )
    }
    offered = {entry["name"] for entry in artifact("JobMarket").entries("function")}
    assert wanted and wanted <= offered


def test_artifact_market_declares_every_error_of_its_sources() -> None:
    declared = set(re.findall(r"^error (\w+)\(", (building.SOLIDITY / "libraries/Errors.sol").read_text(), re.M))
    of_market = {name for name in declared if name.startswith(("Ledger_", "Registry_", "JobMarket_"))}
    assert of_market and of_market <= {entry["name"] for entry in artifact("JobMarket").entries("error")}


@pytest.mark.parametrize("tree", sorted(_TESTS.glob("*.tree")), ids=lambda path: path.stem)
def test_tree_names_exactly_the_tests_of_its_contract(tree: Path) -> None:
    planned = re.findall(r":: (\w+)$", tree.read_text(), re.M)
    written = re.findall(r"function (test\w*)\(", tree.with_suffix(".t.sol").read_text())
    assert sorted(planned) == sorted(written)


def test_tree_exists_for_every_test_contract() -> None:
    contracts = {path.name.removesuffix(".t.sol") for path in _TESTS.glob("*.t.sol")}
    # Invariants have no branches; they are numbered in the contract itself.
    assert contracts - {path.stem for path in _TESTS.glob("*.tree")} == {"Invariants"}
