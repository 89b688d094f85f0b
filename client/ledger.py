"""The market as its logs tell it: every job, offer, root, verdict and payment, with no database of ours.

Reads all logs once per command; a job is found by any unambiguous beginning of its id. Next: timeline.py tells one
job's story from these, audit.py compares the whole with the contract's storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tolsey.client.access import Access
from tolsey.contracts import events as ev
from tolsey.contracts.bindings import binding_digest
from tolsey.errors import ConfigError
from tolsey.network.identity import verify_peer_signature
from tolsey.protocol.lifecycle import State
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.units import ClassId, JobId, WindowRoot

_SUBJECTS = ("job_id", "dispute_id", "subject")
"""Fields by which an event names its job or the dispute over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLog:
    """One job by its logs: the offer that made it, its events in order."""

    job_id: JobId
    offer: Offer
    events: tuple[ev.Event, ...]

    @property
    def last_change(self) -> ev.JobEvent:
        """The newest state change."""
        return [e for e in self.events if isinstance(e, ev.JobEvent)][-1]

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.last_change.after

    @property
    def roots(self) -> tuple[WindowRoot, ...]:
        """Committed window roots by window; a later commit of the same window does not exist."""
        return tuple(e.root for e in self.events if isinstance(e, ev.WindowCommitted))


class Ledger:
    """All events up to one block."""

    def __init__(self, domain: Domain, events: Iterable[ev.Event], block: int) -> None:
        self.domain = domain
        self.events = tuple(events)
        self.block = block

    @classmethod
    def read(cls, access: Access) -> Ledger:
        """Everything from the market's first block to the newest; blocks, so call it in a thread."""
        block = access.reader.block_number()
        return cls(access.network.domain, access.reader.logs(access.network.deployed_block, block), block)

    @cached_property
    def jobs(self) -> dict[JobId, JobLog]:
        """Every accepted job, in the order of acceptance."""
        offers = {e.job_id: e.offer for e in self.events if isinstance(e, ev.JobAccepted)}
        disputes = {e.dispute_id: e.job_id for e in self.events if isinstance(e, ev.SegmentChallenged)}
        found: dict[JobId, list[ev.Event]] = {job_id: [] for job_id in offers}
        for event in self.events:
            subject: bytes = next((value for name in _SUBJECTS if (value := getattr(event, name, b""))), b"")
            job_id = JobId(disputes.get(subject, subject))
            if job_id in found:
                found[job_id].append(event)
        return {i: JobLog(job_id=i, offer=offers[i], events=tuple(found[i])) for i in found}

    @cached_property
    def worker_peers(self) -> dict[str, str]:
        """Account (lower case) -> peer id of every worker, where the peer itself has signed the binding."""
        return self._bound(e for e in self.events if isinstance(e, ev.WorkerRegistered))

    @cached_property
    def workers(self) -> frozenset[str]:
        """Accounts (lower case) of the workers that are registered and not leaving."""
        there: set[str] = set()
        for event in self.events:
            if isinstance(event, ev.WorkerRegistered):
                there.add(event.account.lower())
            elif isinstance(event, ev.WorkerExitRequested):
                there.discard(event.account.lower())
        return frozenset(there)

    def verifier_peers(self, class_id: ClassId) -> dict[str, str]:
        """The same for the verifiers of one class."""
        return self._bound(e for e in self.events if isinstance(e, ev.VerifierRegistered) and e.class_id == class_id)

    def find(self, prefix: str, also: Iterable[JobId] = ()) -> JobId:
        """The job whose id begins with `prefix` (hex, with or without 0x).

        Args:
            also: ids that the chain does not know yet, such as purchases just made.

        Raises:
            ConfigError: none or several do, or there is no prefix.
        """
        wanted = prefix.lower().removeprefix("0x")
        if not wanted:
            raise ConfigError("a job's id or its beginning is due", fix="tolsey ps, or tolsey ps --all")
        found = sorted({i for i in (*self.jobs, *also) if i.hex().startswith(wanted)})
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(f"no job begins with {prefix!r}", fix="tolsey ps, or tolsey ps --all")
        raise ConfigError(
            f"{len(found)} jobs begin with {prefix!r}: {', '.join(i.hex()[:16] for i in found[:4])}",
            fix="give more of the id",
        )

    def _bound(self, events: Iterable[ev.WorkerRegistered | ev.VerifierRegistered]) -> dict[str, str]:
        found: dict[str, str] = {}
        for event in events:
            digest = binding_digest(self.domain, event.account, event.peer_id)
            if verify_peer_signature(event.peer_id, digest, event.peer_signature):
                found[event.account.lower()] = event.peer_id
        return found
