"""Verifiers that cheat: the shipped service with one seam replaced each, for tests and demonstrations only.

    lazy           says match without looking; loses its bond once a segment of its sample is refuted
    copycat        copies the first seal it sees; the seal is bound to its sender, so its own revelation is refused
    false-accuser  challenges honest work; loses the challenge bond to panel, worker and fire
    silent         seals and votes nothing; loses two fees each time

    python -m tolsey.testing.dishonest_verifiers lazy --network local --home /tmp/lazy

What each does, it does on a real market: nothing but its conduct is fake. The tests show what it costs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import typer

from tolsey.contracts.network_file import network_path
from tolsey.contracts.role_command import home_of
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.protocol.units import StateRoot
from tolsey.verifier.attempt import Judgement
from tolsey.verifier.command import ROLE, run_verifier
from tolsey.verifier.compare import Finding
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.duty import DutyRun
from tolsey.verifier.judging import Judge
from tolsey.verifier.panelist import Panelist
from tolsey.verifier.post import Makers
from tolsey.verifier.records import DUE, MISSED, DutyRecord
from tolsey.verifier.service import Parts
from tolsey.verifier.watcher import Duty, PanelDuty

_log = logging.getLogger(__name__)


class LazyJudge(Judge):
    """Everything matches, every worker is right."""

    async def window(self, duty: Duty, segments: list[int]) -> Judgement:
        return Judgement(finding=Finding(kind=Verdict.MATCH, reason="not looked at"))

    async def panel(self, duty: PanelDuty) -> tuple[Vote, str]:
        return Vote.WORKER, "not looked at"


class FalseAccuser(Judge):
    """Accuses the first segment of its sample, with an invented root."""

    async def window(self, duty: Duty, segments: list[int]) -> Judgement:
        attempt = self.attempt(duty, segments)
        await attempt.once()  # fetches what the opening needs
        finding = Finding(
            kind=Verdict.MISMATCH,
            segment=segments[0],
            replayed_root=StateRoot(keccak256(b"an invented root", duty.job_id)),
            has_opening=True,
            reason="invented",
        )
        return Judgement(finding=finding, evidence=attempt.evidence("mismatch", finding))


class SilentDuty(DutyRun):
    """Owes a verdict and gives none."""

    async def run(self) -> None:
        _log.info("silent on window %d", self.duty.draw.window)


class SilentPanelist(Panelist):
    """Sits on a panel and says nothing."""

    async def run(self) -> None:
        _log.info("silent on a panel")


class CopycatDuty(DutyRun):
    """Waits for another verifier's seal, puts the same on chain, and tries to reveal it as its own match."""

    async def run(self) -> None:
        record = await self.tools.records.begin(self.duty)
        if record.stage != DUE:
            return
        record = await self.tools.records.judged(self.duty, Finding(kind=Verdict.MATCH, reason="copied"))
        if (await self.seal(record)).stage != MISSED:
            await self.reveal(record)

    async def seal(self, record: DutyRecord) -> DutyRecord:
        self._copied = await self._seal_of_another()
        return await super().seal(record)

    def seal_of(self, record: DutyRecord) -> bytes:
        return self._copied

    async def _seal_of_another(self) -> bytes:
        chain, duty = self.tools.chain, self.duty
        while True:
            for other in await chain.run(chain.gateway.drawn_verifiers, duty.offer):
                if other != self.tools.account:
                    view = await chain.run(chain.gateway.verdict, duty.job_id, duty.draw.window, other)
                    if any(view.seal):
                        return view.seal
            await chain.follower.wait_block()


DISHONEST: Mapping[str, Parts] = {
    "lazy": Parts(judge=LazyJudge),
    "copycat": Parts(makers=Makers(duty=CopycatDuty)),
    "false-accuser": Parts(judge=FalseAccuser),
    "silent": Parts(makers=Makers(duty=SilentDuty, panelist=SilentPanelist)),
}


def main(
    conduct: str = typer.Argument(help=", ".join(DISHONEST)),
    network: str = typer.Option("local", "--network"),
    home: Path = typer.Option(..., "--home"),  # noqa: B008  # how typer declares options
    listen: str = typer.Option("/ip4/127.0.0.1/tcp/0"),
    bootstrap: list[str] = typer.Option([]),  # noqa: B008
    passphrase_file: Path | None = typer.Option(None),  # noqa: B008
    json_output: bool = typer.Option(False, "--json"),
) -> None:
    """Run a verifier that cheats in one way."""
    if conduct not in DISHONEST:
        raise typer.BadParameter(f"{conduct!r} is none of {', '.join(DISHONEST)}")
    path = network_path(network)
    config = VerifierConfig(
        network=str(path), home=home_of(ROLE, path, home), listen=listen, bootstrap=tuple(bootstrap), faucet=True
    )
    run_verifier(config, parts=DISHONEST[conduct], passphrase_file=passphrase_file, json_output=json_output)


if __name__ == "__main__":
    typer.run(main)
