"""The gas table: what each flow of the market costs, beside what peers' contracts cost.

`python -m tolsey.contracts.gas` prints it from `solidity/gas.json`, which the Solidity tests measure (whole
transactions of people who have traded before: intrinsic gas, calldata, cold slots and refunds; fee 0; one window of
four segments, a pool of five verifiers). `--update OUT` takes a fresh measurement over, `--check OUT` compares it with
the committed one. Peers' figures were measured
the same way from their public repositories at the named commits, in November 2026.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tolsey.errors import ConfigError

_FIGURES = Path(__file__).resolve().parent / "solidity" / "gas.json"

# (system, commit, transactions of an honest job, gas of an honest job)
PEERS = (
    ("iExec PoCo v6, one worker", "fd0c823", 6, 1_704_452),
    ("iExec PoCo v6, boost (TEE)", "fd0c823", 5, 879_781),
    ("Lilypad", "9ed8651", 4, 1_684_269),
    ("PrimeIntellect, pool to claim", "a1156fe", 5, 3_000_000),
    ("Kleros escrow v2, no court", "-", 3, 313_938),
)


def figures() -> dict[str, int]:
    """Gas by flow, as last measured."""
    if not _FIGURES.is_file():
        raise ConfigError(f"no gas figures at {_FIGURES}", fix="run from a checkout of the repository")
    content: dict[str, int] = json.loads(_FIGURES.read_text())
    return content


def table() -> str:
    """Both tables as Markdown."""
    own = figures()
    lines = ["| honest job | transactions | gas |", "| --- | ---: | ---: |"]
    lines.append(f"| **Tolsey, one window, challenge window** | 4 | **{own['honestJob']:,}** |")
    lines += [f"| {name} ({commit}) | {count} | {gas:,} |" for name, commit, count, gas in PEERS]
    lines += ["", "| flow of Tolsey | gas |", "| --- | ---: |"]
    lines += [f"| {name} | {gas:,} |" for name, gas in own.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--update"] and len(arguments) == 2:
        _FIGURES.write_bytes(Path(arguments[1]).read_bytes())
    elif arguments[:1] == ["--check"] and len(arguments) == 2:
        return _check(json.loads(Path(arguments[1]).read_text()))
    elif arguments:
        print("usage: python -m tolsey.contracts.gas [--check | --update contracts/solidity/out/gas.json]")
        return 2
    print(table())
    return 0


def _check(measured: dict[str, int]) -> int:
    """0 where a fresh measurement equals the committed figures; else names every flow that moved."""
    own = figures()
    moved = [name for name in sorted(own.keys() | measured.keys()) if own.get(name) != measured.get(name)]
    for name in moved:
        print(f"{name}: measured {measured.get(name)}, committed {own.get(name)}")
    if moved:
        print("take them over: python -m tolsey.contracts.gas --update contracts/solidity/out/gas.json")
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
