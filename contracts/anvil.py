"""Foundry's anvil as the local chain: where to find it, and the flags that make it the chain our tests know.

Version matters: `--state` files change between anvil versions, so the version stands beside the file. Foundry is used
where it is installed, never downloaded. Next: local_chain.py, which starts this or the embedded chain.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tolsey.contracts.devchain.genesis import CHAIN_ID, DEV_MNEMONIC
from tolsey.errors import ConfigError

STATE_NAME = "anvil.json"
READY_PREFIX = "Listening on "
HARDFORKS = ("cancun", "prague")


def find_anvil() -> Path | None:
    """The anvil to run: $TOLSEY_ANVIL, then PATH, then ./node_modules/.bin; None where there is none.

    Raises:
        ConfigError: $TOLSEY_ANVIL names no executable file.
    """
    named = os.environ.get("TOLSEY_ANVIL")
    if named:
        if not os.access(named, os.X_OK) or not os.path.isfile(named):
            raise ConfigError(f"TOLSEY_ANVIL is {named}, which is no executable file", fix="unset TOLSEY_ANVIL")
        return _binary_of(Path(named).resolve())
    found = shutil.which("anvil") or shutil.which("anvil", path="node_modules/.bin")
    return None if found is None else _binary_of(Path(found).resolve())


def anvil_command(
    anvil: Path, data_dir: Path, port: int, *, block_time_s: float = 0, hardfork: str = "cancun"
) -> list[str]:
    """The command line: chain 31337, the published accounts, state kept in `data_dir` and dumped every second.

    Args:
        block_time_s: also mine a block every so many seconds; 0 mines with transactions only.
        hardfork: one of HARDFORKS; anvil's own default moves with its version, so it is always given.

    Raises:
        ConfigError: a hardfork that the contracts were not tested on.
    """
    if hardfork not in HARDFORKS:
        raise ConfigError(f"hardfork {hardfork!r}, tested are {', '.join(HARDFORKS)}")
    command = [
        str(anvil), "--host", "127.0.0.1", "--port", str(port),
        "--chain-id", str(CHAIN_ID), "--mnemonic", DEV_MNEMONIC, "--hardfork", hardfork,
        "--state", str(data_dir / STATE_NAME), "--state-interval", "1", "--preserve-historical-states",
        "--slots-in-an-epoch", "1",
    ]  # fmt: skip
    if block_time_s > 0:
        command += ["--block-time", str(block_time_s), "--mixed-mining"]
    return command


def _binary_of(found: Path) -> Path:
    """The native program behind npm's Node wrapper, which would not pass on our lock; any other file is itself."""
    with found.open("rb") as opened:
        if opened.read(2) != b"#!":
            return found
    for parent in found.parents:
        if parent.name == "@foundry-rs":
            natives = [path for path in parent.glob("anvil-*/bin/anvil") if os.access(path, os.X_OK)]
            return natives[0] if len(natives) == 1 else found
    return found
