"""What a worker's owner decides: typed settings, each with its unit and the reason for its default.

Values come from flags or the environment (`TOLSEY_…`); a bad one is refused here with the flag's name, never later in
the middle of a job. It holds no secrets: keys and passphrase are the wallet's business. Next in the flow: service.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tolsey.contracts.amounts import DOLLAR_UNITS
from tolsey.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Settings of one worker.

    Attributes:
        network: a network file, or the name of one that ships.
        home: everything the worker keeps; one running worker per home.
        listen: multiaddr to accept peers on. announce: multiaddrs to tell others instead (behind a NAT).
        bootstrap: multiaddrs of peers to meet first; empty takes the network file's.
        price_per_petaflop: token units per 10^15 floating-point operations.
        min_price: token units per job, so that small jobs pay for their transactions.
        bond_bps: bond per job as a share of its price; min_bond: at least, token units (the market has its own floor).
        forfeit_bps: share of one window's price that whoever ends the job early pays; half a window by default:
            about what the other side has spent when it happens at a random moment.
        capacity: jobs at a time. memory_bytes: for one job. device: where torch runs, "cpu" or "cuda".
        disk_quota_bytes: all blobs together. disk_spare_bytes: free space never used, so that the database can write.
        offer_ttl_s: how long a signed offer binds; the client needs one transaction's time.
        time_margin: a window must fit its commit deadline this many times over at the measured speed.
        lookahead_windows: windows trained before the one that the chain is at is settled; work at risk if it is not.
        faucet: take test dollars and gas from a local chain's faucet.
        rpc_url: overrides the network file's endpoint.
    """

    network: str
    home: Path
    listen: str = "/ip4/127.0.0.1/tcp/0"
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    price_per_petaflop: int = 1 * DOLLAR_UNITS
    min_price: int = DOLLAR_UNITS // 2
    bond_bps: int = 5_000
    min_bond: int = 0
    forfeit_bps: int = 5_000
    capacity: int = 1
    memory_bytes: int = 4 << 30
    device: str = "cpu"
    disk_quota_bytes: int = 64 << 30
    disk_spare_bytes: int = 1 << 30
    offer_ttl_s: int = 120
    time_margin: float = 2.0
    lookahead_windows: int = 1
    faucet: bool = False
    rpc_url: str | None = None

    def __post_init__(self) -> None:
        _within("--capacity", self.capacity, 1, 64)
        _within("--bond-bps", self.bond_bps, 0, 1_000_000)
        _within("--memory (bytes)", self.memory_bytes, 64 << 20, 1 << 50)
        _within("--disk-quota (bytes)", self.disk_quota_bytes, 1 << 20, 1 << 50)
        _within("--forfeit-bps", self.forfeit_bps, 0, 10_000)
        if self.device not in ("cpu", "cuda") and not re.fullmatch(r"cuda:\d{1,2}", self.device):
            raise ConfigError(f"--device is {self.device!r}; it is cpu, cuda or cuda:N", fix="--device cpu")

    @property
    def pid_file(self) -> Path:
        """Holds the process id of the running worker."""
        return self.home / "worker.pid"


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}, allowed are {least} to {most}")
