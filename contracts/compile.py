"""Solidity sources to committed artifacts, and the check that the two still agree.

`python -m tolsey.contracts.compile` writes `artifacts/<Name>.json`; with `--check` it writes nothing and fails where a
rebuild differs by one byte. Users never compile: the artifacts are part of the wheel, while the compiler (GPL, from
npm) is not.

An artifact holds the ABI, the creation bytecode, the compiler with its settings, and the SHA-256 of every source that
went in. The settings are read from `solidity/foundry.toml`, so that tests, gas figures and artifacts cannot drift
apart. The sources' hashes say what changed; the bytes of the bytecode say whether it matters.

This file refuses to download a compiler. Next in the flow: abi.py, which reads the artifacts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tolsey.errors import ConfigError

HERE = Path(__file__).resolve().parent
SOLIDITY = HERE / "solidity"
ARTIFACTS = HERE / "artifacts"
SOLC = SOLIDITY / "tools" / "solc"

# What a deployment needs: contract name -> source, relative to `solidity/`.
CONTRACTS = {
    "JobMarket": "JobMarket.sol",
    "PanelJudge": "PanelJudge.sol",
    "PrevrandaoBeacon": "PrevrandaoBeacon.sol",
    "TestDollar": "TestDollar.sol",
}
# The market's rarer half runs behind the market's own address, so its errors belong to the market's ABI.
OTHER_HALF = {"JobMarket": ("MarketAnnex.sol", "MarketAnnex")}
_IMPORT = re.compile(r'^\s*import\s+(?:[^"]*?\s+from\s+)?"([^"]+)";', re.MULTILINE)
_EIP170_BYTES = 24_576  # runtime code that Ethereum accepts


def compile_all() -> dict[str, bytes]:
    """The bytes of each artifact by contract name.

    Raises:
        ConfigError: no Node or compiler at hand, or the sources do not compile.
    """
    sources = _sources()
    settings = _settings()
    output = _run_solc({"language": "Solidity", "sources": sources, "settings": settings})
    errors = [e["formattedMessage"] for e in output.get("errors", []) if e["severity"] == "error"]
    if errors:
        raise ConfigError("the Solidity sources do not compile:\n" + "\n".join(errors))
    version = _solc_version()
    return {name: _artifact(name, output["contracts"], sources, settings, version) for name in sorted(CONTRACTS)}


def differences() -> list[str]:
    """Names of the artifacts that a rebuild would change, in order."""
    return [name for name, built in compile_all().items() if _read(name) != built]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tolsey.contracts.compile", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 where an artifact is stale")
    if parser.parse_args(argv).check:
        stale = differences()
        for name in stale:
            print(f"stale: artifacts/{name}.json differs from a rebuild; run python -m tolsey.contracts.compile")
        return 1 if stale else 0
    ARTIFACTS.mkdir(exist_ok=True)
    for name, built in compile_all().items():
        (ARTIFACTS / f"{name}.json").write_bytes(built)
        print(f"{name}: {len(built)} bytes")
    return 0


def _settings() -> dict[str, Any]:
    profile = tomllib.loads((SOLIDITY / "foundry.toml").read_text())["profile"]["default"]
    return {
        "evmVersion": profile["evm_version"],
        "metadata": {"bytecodeHash": profile["bytecode_hash"]},
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "viaIR": profile["via_ir"],
        "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
    }


def _sources() -> dict[str, dict[str, str]]:
    """Every source reached from CONTRACTS, by its name in import statements."""
    found: dict[str, dict[str, str]] = {}
    waiting = sorted(CONTRACTS.values())
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        text = _locate(name).read_text()
        found[name] = {"content": text}
        waiting += [_resolve(name, imported) for imported in _IMPORT.findall(text)]
    return dict(sorted(found.items()))


def _resolve(importer: str, imported: str) -> str:
    if not imported.startswith("."):
        return imported
    parts = importer.split("/")[:-1]
    for step in imported.split("/"):
        if step == "..":
            parts.pop()
        elif step != ".":
            parts.append(step)
    return "/".join(parts)


def _locate(name: str) -> Path:
    path = HERE.parent / "node_modules" / name if name.startswith("@") else SOLIDITY / name
    if not path.is_file():
        raise ConfigError(f"Solidity source {name} is not at {path}", fix="npm ci")
    return path


def _run_solc(request: dict[str, Any]) -> dict[str, Any]:
    done = _solc(["--standard-json"], json.dumps(request).encode())
    answer: dict[str, Any] = json.loads(done)
    return answer


def _solc_version() -> str:
    match = re.search(rb"Version: ([0-9.]+\+commit\.[0-9a-f]+)", _solc(["--version"], b""))
    if match is None:
        raise ConfigError("tools/solc --version names no version")
    return match[1].decode()


def _solc(arguments: list[str], stdin: bytes) -> bytes:
    node = shutil.which("node")
    if node is None:
        raise ConfigError("Node is not on PATH, and the Solidity compiler runs on it", fix="install Node 20 or later")
    done = subprocess.run([node, str(SOLC), *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"tools/solc failed: {done.stderr.decode(errors='replace').strip()}", fix="npm ci")
    return done.stdout


def _artifact(
    name: str, contracts: dict[str, Any], sources: dict[str, dict[str, str]], settings: dict[str, Any], version: str
) -> bytes:
    built = contracts[CONTRACTS[name]][name]
    runtime = len(built["evm"]["deployedBytecode"]["object"]) // 2
    if runtime > _EIP170_BYTES:
        raise ConfigError(f"{name} has {runtime} bytes of code where a chain takes {_EIP170_BYTES} (EIP-170)")
    artifact = {
        "contractName": name,
        "abi": _abi(name, contracts),
        "bytecode": "0x" + built["evm"]["bytecode"]["object"],
        "runtimeBytes": runtime,
        "compiler": {
            "version": version,
            "settings": {key: value for key, value in settings.items() if key != "outputSelection"},
        },
        "sources": {
            source: hashlib.sha256(item["content"].encode()).hexdigest()
            for source, item in sources.items()
            if source in _reached(CONTRACTS[name], sources)
        },
    }
    return json.dumps(artifact, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _abi(name: str, contracts: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = list(contracts[CONTRACTS[name]][name]["abi"])
    if name in OTHER_HALF:
        source, half = OTHER_HALF[name]
        known = {json.dumps(entry, sort_keys=True) for entry in entries}
        entries += [
            entry
            for entry in contracts[source][half]["abi"]
            if entry["type"] in ("error", "event") and json.dumps(entry, sort_keys=True) not in known
        ]
    return entries


def _reached(start: str, sources: dict[str, dict[str, str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [_resolve(name, imported) for imported in _IMPORT.findall(sources[name]["content"])]
    return seen


def _read(name: str) -> bytes | None:
    path = ARTIFACTS / f"{name}.json"
    return path.read_bytes() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
