"""Holds a book made from logs against the contracts' storage, at one block, entry by entry.

Agreement means that nothing happened which no log tells, and that no log tells what did not happen. Each difference is
a sentence with both values. Asking for old blocks needs an endpoint that still has their state; the newest always is.
Next in the flow: `tolsey audit --all`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from tolsey.contracts.book import Book
from tolsey.contracts.entries import JobRecord, RegistrationRecord
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.views import Registration
from tolsey.protocol.lifecycle import State


def read_book(gateway: Gateway, until: int | None = None) -> Book:
    """The market's book from its first block to `until` (the newest by default); blocks.

    Raises:
        Reorged: the chain changed while it was read; ask again.
    """
    last = gateway.block_number() if until is None else until
    return Book.of(gateway.logs(gateway.network.deployed_block, last), gateway.params().treasury)


def differences(book: Book, gateway: Gateway, block: int) -> list[str]:
    """All in which book and storage disagree after `block`, and the book's own faults; empty where they agree."""
    pinned = gateway.at_block(block)
    found = chain(_accounts(book, pinned), _jobs(book, pinned), _registrations(book, pinned))
    return [*book.faults, *found]


def _accounts(book: Book, gateway: Gateway) -> Iterator[str]:
    for account in book.accounts:
        told, held = book.account(account), gateway.account(account)
        if told != held:
            yield f"{account}: the logs give {told[0]} free, {told[1]} locked, the market says {held[0]}, {held[1]}"
    balance = gateway.token_balance(gateway.network.market)
    if balance < book.held:
        yield f"the market holds {balance} token units, its accounts add up to {book.held}"


def _jobs(book: Book, gateway: Gateway) -> Iterator[str]:
    for job in book.jobs.values():
        view = gateway.job(job.job_id)
        told = {
            "state": job.state.name,
            "window": job.window,
            "deadline": job.deadline,
            "verdicts paid": job.verdicts_paid,
            "escrow": job.escrow_left,
        }
        stored = {
            "state": view.state.name,
            "window": view.window,
            "deadline": view.deadline,
            "verdicts paid": view.verdicts_paid,
            "escrow": 0 if job.offer is None else gateway.escrow_left(job.offer),
        }
        for name in told:
            if told[name] != stored[name]:
                yield f"job {job.job_id.hex()[:16]}: the logs give {name} {told[name]}, the market says {stored[name]}"
        yield from _windows(job, gateway, view.seed)


def _windows(job: JobRecord, gateway: Gateway, stored_seed: int) -> Iterator[str]:
    for number, window in job.windows.items():
        root = gateway.window_root(job.job_id, number)
        if root != window.root:
            shown = "none" if root is None else root.hex()[:16]
            yield f"job {job.job_id.hex()[:16]} window {number}: root {window.root.hex()[:16]}, the market says {shown}"
    current = job.windows.get(job.window)
    if job.state is State.DRAWN and current is not None and current.seed != stored_seed:
        yield f"job {job.job_id.hex()[:16]}: the logs give seed {current.seed}, the market says {stored_seed}"


def _registrations(book: Book, gateway: Gateway) -> Iterator[str]:
    for account, worker in book.workers.items():
        yield from _registration(f"worker {account}", worker, gateway.worker(account))
    for (class_id, account), verifier in book.verifiers.items():
        yield from _registration(f"verifier {account}", verifier, gateway.verifier(class_id, account))


def _registration(who: str, told: RegistrationRecord, stored: Registration | None) -> Iterator[str]:
    if stored is None:
        yield f"{who}: registered by the logs, a stranger to the market"
        return
    for name in ("bond", "registered_at", "leaving_since", "id", "secret"):
        if getattr(told, name) != getattr(stored, name):
            yield f"{who}: the logs give {name} {getattr(told, name)!r}, the market says {getattr(stored, name)!r}"
