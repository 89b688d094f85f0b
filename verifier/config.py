"""What a verifier's owner decides: typed settings, each with its unit and the reason for its default.

Values come from flags or the environment (`TOLSEY_…`); a bad one is refused here with the flag's name, never later in
the middle of a duty. It holds no secrets: keys and passphrase are the wallet's business. Next in the flow: service.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tolsey.errors import ConfigError
from tolsey.protocol.job import EXACT_FP32, PROFILES


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """Settings of one verifier.

    Attributes:
        network: a network file. home: everything the verifier keeps; one running verifier per home.
        listen: multiaddr to accept peers on. announce: multiaddrs to tell others instead (behind a NAT).
        bootstrap: multiaddrs of peers to meet first; empty takes the network file's.
        profile: numerics profile whose jobs it is drawn for; each has pools of its own, with a bond each. None: that of
            the pool which the account has joined; a new one joins that of exact-fp32/1, whose jobs can be judged on
            any machine.
        device: where torch runs, "cpu" or "cuda". memory_bytes: for one replay; programs that need more are refused.
        watch_all: also replay samples of windows it was not drawn for: unpaid, but a fault found there earns the
            finder's share.
        watch_samples: segments replayed in such a window.
        max_segment_s: a replay that runs longer is killed (a worker cannot hang the verifier with one segment).
        max_duties: windows due, windows looked at late, and panels: so many of each are judged side by side; replays
            themselves run one at a time.
        disk_quota_bytes: all fetched contents together.
        faucet: take test dollars and gas from a local chain's faucet.
        rpc_url: overrides the network file's endpoint.
    """

    network: str
    home: Path
    listen: str = "/ip4/127.0.0.1/tcp/0"
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    profile: str | None = None
    device: str = "cpu"
    memory_bytes: int = 4 << 30
    watch_all: bool = False
    watch_samples: int = 1
    max_segment_s: int = 3_600
    max_duties: int = 16
    disk_quota_bytes: int = 64 << 30
    faucet: bool = False
    rpc_url: str | None = None

    def __post_init__(self) -> None:
        _within("--memory (bytes)", self.memory_bytes, 64 << 20, 1 << 50)
        _within("--watch-samples", self.watch_samples, 1, 1024)
        _within("--max-segment (seconds)", self.max_segment_s, 1, 30 * 86_400)
        _within("--max-duties", self.max_duties, 1, 1024)
        _within("--disk-quota (bytes)", self.disk_quota_bytes, 1 << 20, 1 << 50)
        if self.profile is not None and self.profile not in PROFILES:
            raise ConfigError(
                f"--profile is {self.profile!r}; it is one of {', '.join(PROFILES)}", fix=f"--profile {EXACT_FP32}"
            )
        if self.device not in ("cpu", "cuda") and not re.fullmatch(r"cuda:\d{1,2}", self.device):
            raise ConfigError(f"--device is {self.device!r}; it is cpu, cuda or cuda:N", fix="--device cpu")

    @property
    def pid_file(self) -> Path:
        """Holds the process id of the running verifier."""
        return self.home / "verifier.pid"

    @property
    def status_file(self) -> Path:
        """What the running verifier last said of itself (JSON); for `tolsey verifier status`."""
        return self.home / "status.json"


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}, allowed are {least} to {most}")
