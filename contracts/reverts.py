"""A contract's refusal in words: revert data to `Reverted`, with the error's name, its arguments and what to do next.

Every custom error of our ABIs has its sentence here (a test compares); selectors come from the ABIs. Amounts are token
units, times unix seconds. Unknown data is shown as hex, never guessed at. Next in the flow: gateway.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from eth_abi.exceptions import DecodingError

from tolsey.contracts.abi import Entry, decode, interface
from tolsey.contracts.artifacts import artifact
from tolsey.errors import Reverted
from tolsey.protocol.lifecycle import State, Verdict

CONTRACTS = ("JobMarket", "PanelJudge", "PrevrandaoBeacon", "TestDollar")


class Phase(IntEnum):
    """Where a dispute stands before the panel; `IPanelJudge.Phase`."""

    NONE = 0
    DRAWING = 1
    VOTING = 2
    CLOSED = 3


_DEPOSIT = "tolsey wallet deposit AMOUNT"
_WAIT = "try again once that time has passed"
_STATUS = "tolsey status shows where each job stands"

SENTENCES: Mapping[str, tuple[str, str | None]] = {
    # name: (sentence over the arguments, fix)
    "Ledger_InsufficientFree": ("{account} has {free} token units free in the market, {needed} are needed", _DEPOSIT),
    "Ledger_NothingArrived": ("a deposit of {asked} token units by {account} brought nothing", "tolsey wallet balance"),
    "Ledger_WithdrawalRefused": ("{account} cannot withdraw to {to}", "withdraw to an account of your own"),
    "Registry_AlreadyRegistered": ("{account} is registered since {since}", None),
    "Registry_NotRegistered": (
        "{account} is not registered (class {classId}; zeros stand for workers)",
        "tolsey worker register, or tolsey verifier register",
    ),
    "Registry_Leaving": ("{account} has asked to leave at {leavingSince}", "take the bond back, then register anew"),
    "Registry_NotLeaving": ("{account} has not asked to leave yet", "request the exit first"),
    "Registry_BondLocked": ("the bond is free at {freeAt}, now is {nowTs}", _WAIT),
    "Registry_BadPeerBinding": (
        "a peer id of {peerIdBytes} bytes with a signature of {signatureBytes}; 1 to 64 and 64 are due",
        None,
    ),
    "Registry_PoolFull": ("the pool of class {classId} has all its {capacity} places taken", None),
    "Registry_WrongSecret": (
        "the verifier secret hashes to {actualHash}, registered is {expectedHash}",
        "restore secrets.json of the time of registration",
    ),
    "Registry_NoBondLeft": ("{verifier} has no bond left in class {classId}", None),
    "JobMarket_BadParameter": ("parameter {name} of the deployment is {value}, its bound is {bound}", None),
    "JobMarket_WrongState": ("job {jobId} is {actual}, the call needs {expected}", _STATUS),
    "JobMarket_WrongCaller": ("only {expected} may do this for job {jobId}, not {actual}", "use that account's keys"),
    "JobMarket_WrongSigner": ("the offer of job {jobId} is signed by {actual}, its worker is {expected}", None),
    "JobMarket_OfferExpired": ("the offer expired at {expiresAt}, now is {nowTs}", "ask the worker for a new offer"),
    "JobMarket_TermOutOfBounds": ("the offer's {term} is {value}, its bound here is {bound}", "ask for other terms"),
    "JobMarket_WindowClosed": ("for job {jobId} the time for this call ended at {closedAt}, now is {nowTs}", _STATUS),
    "JobMarket_TooEarly": ("for job {jobId} this call is open after {opensAfter}, now is {nowTs}", _WAIT),
    "JobMarket_SameBlock": ("job {jobId}: this call must come in a later block than {blockNumber}", _WAIT),
    "JobMarket_ZeroRoot": ("job {jobId}: a window root of zeros cannot be committed", None),
    "JobMarket_WrongSecret": (
        "the client's secret for job {jobId} gives {actualSeal} after {times} hashes, the offer says {expectedSeal}",
        None,
    ),
    "JobMarket_NotDrawn": ("{account} was not drawn for window {window} of job {jobId}", None),
    "JobMarket_AlreadySealed": ("{verifier} has sealed its verdict on window {window} of job {jobId} already", None),
    "JobMarket_WrongSeal": ("job {jobId}: these values give the seal {revealed}, sealed was {stored}", None),
    "JobMarket_UnknownVerdict": ("there is no verdict of kind {kind}", None),
    "JobMarket_WrongSegment": (
        "segment {segment} of job {jobId} is not in the current window, which has segments {first} up to {end}, "
        "without the last",
        None,
    ),
    "JobMarket_WrongOpening": ("the opening of segment {segment} does not lead to the root {committedRoot}", None),
    "JobMarket_AlreadyAnswered": (
        "segment {segment} of job {jobId} was demanded and answered before; its opening stands in the log",
        None,
    ),
    "JobMarket_Continuous": ("segment {segment} of job {jobId} does start at {inputRoot}, as it should", None),
    "JobMarket_NothingDisputed": ("the challenge claims {outputRoot}, which is what the worker committed", None),
    "JobMarket_ChallengeAlreadySealed": ("{challenger} has placed the seal {seal} already", None),
    "JobMarket_ChallengeNotSealed": ("{challenger} has not placed the seal {seal}", "seal the challenge first"),
    "JobMarket_NoRulingYet": ("the judge has not ruled on dispute {disputeId} of job {jobId} yet", _WAIT),
    "JobMarket_NoFault": ("{verifier} has done nothing in job {jobId} that this penalty is for ({kind})", None),
    "JobMarket_OnlyJudge": ("only the judge {judge} may do this, not {caller}", None),
    "DrawLib_TooMany": ("{count} cannot be drawn out of {size}", None),
    "PanelJudge_OnlyMarket": ("only the market {market} may open a dispute, not {caller}", None),
    "PanelJudge_AlreadyOpened": ("dispute {disputeId} was opened before; a segment is judged once", None),
    "PanelJudge_WrongPhase": ("dispute {disputeId} is {actual}, the call needs {expected}", _STATUS),
    "PanelJudge_SameBlock": ("dispute {disputeId}: the panel is drawn in a later block than {blockNumber}", _WAIT),
    "PanelJudge_WindowClosed": ("for dispute {disputeId} the time ended at {closedAt}, now is {nowTs}", None),
    "PanelJudge_TooEarly": ("for dispute {disputeId} this is open after {opensAfter}, now is {nowTs}", _WAIT),
    "PanelJudge_NotOnPanel": ("{account} does not sit on the panel of dispute {disputeId}", None),
    "PanelJudge_AlreadySealed": ("{voter} has sealed its vote on dispute {disputeId} already", None),
    "PanelJudge_WrongSeal": ("dispute {disputeId}: these values give the seal {revealed}, sealed was {stored}", None),
    "PanelJudge_UnknownVote": ("there is no vote of kind {vote}", None),
    "TestDollar_NotALocalChain": (
        "the test dollar refuses to exist on chain {chainId}, where money may be real",
        "give the market's token with --token ADDRESS",
    ),
    # OpenZeppelin's, inherited.
    "ERC20InsufficientBalance": (
        "{sender} holds {balance} token units, {needed} are needed",
        "tolsey wallet mint AMOUNT on a local chain; else buy the token",
    ),
    "ERC20InsufficientAllowance": (
        "{spender} may take {allowance} token units, {needed} are needed",
        "approve the market first, or deposit with a permit",
    ),
    "ERC20InvalidApprover": ("{approver} cannot approve", None),
    "ERC20InvalidReceiver": ("{receiver} cannot receive the token", None),
    "ERC20InvalidSender": ("{sender} cannot send the token", None),
    "ERC20InvalidSpender": ("{spender} cannot be approved", None),
    "ERC2612ExpiredSignature": ("the permit expired at {deadline}", None),
    "ERC2612InvalidSigner": ("the permit is signed by {signer}, the owner is {owner}", None),
    "InvalidAccountNonce": ("{account} has permit nonce {currentNonce}", None),
    "ECDSAInvalidSignature": ("the signature is not one that any key made", None),
    "ECDSAInvalidSignatureLength": ("a signature of {length} bytes, 65 are due", None),
    "ECDSAInvalidSignatureS": ("a signature with a high s ({s})", None),
    "AddressEmptyCode": ("there is no contract at {target}", "compare the network file with the chain"),
    "FailedCall": ("a call inside a batch failed without a reason", None),
    "InvalidShortString": ("a short string is malformed", None),
    "StringTooLong": ("the string {str} is too long", None),
    "ReentrancyGuardReentrantCall": ("the token called back into the market", None),
    "SafeCastOverflowedUintDowncast": ("{value} does not fit into {bits} bits", "use a smaller amount"),
    "SafeERC20FailedOperation": ("the token {token} refused the transfer", "tolsey wallet balance"),
}
_PANICS: Mapping[int, str] = {
    # Source: Solidity documentation, "Panic via assert and Error via require".
    0x01: "an assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "a value outside its enum",
    0x32: "an index outside its array",
    0x41: "too much memory",
}
_ERROR_STRING, _PANIC = bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")
_ENUMS: Mapping[str, type[IntEnum]] = {"enum IJobMarket.State": State, "enum IPanelJudge.Phase": Phase}
_TEXTS = frozenset({"name", "term"})


def from_revert_data(raw: bytes, *, action: str) -> Reverted:
    """The error to raise for what a contract reverted with.

    Args:
        raw: revert data, from a stranger: any bytes. action: what was tried, for the message ("accept the offer").
    """
    selector = raw[:4]
    if not raw:
        return Reverted(f"cannot {action}: the contract refused without a reason")
    if selector in (_ERROR_STRING, _PANIC):
        return _builtin(selector, raw, action)
    entry = _errors().get(selector)
    if entry is not None:
        try:
            values = decode(entry.inputs, raw[4:])
        except (DecodingError, ValueError, OverflowError):
            entry = None
    if entry is None:
        return Reverted(f"cannot {action}: unknown refusal 0x{raw[:68].hex()}", selector=selector)
    args = {c["name"]: _typed(c, value) for c, value in zip(entry.inputs, values, strict=True)}
    sentence, fix = SENTENCES.get(entry.name, (entry.name, None))
    words = sentence.format_map({key: _shown(entry.name, key, value) for key, value in args.items()})
    return Reverted(f"cannot {action}: {words}", name=entry.name, args_by_name=args, selector=selector, fix=fix)


@functools.cache
def _errors() -> dict[bytes, Entry]:
    return {selector: entry for name in CONTRACTS for selector, entry in interface(name).errors.items()}


def error_names() -> set[str]:
    """Every custom error that our contracts can revert with."""
    return {entry["name"] for name in CONTRACTS for entry in artifact(name).entries("error")}


def _builtin(selector: bytes, raw: bytes, action: str) -> Reverted:
    kind = "string" if selector == _ERROR_STRING else "uint256"
    try:
        value: Any = decode([{"type": kind}], raw[4:])[0]
    except (DecodingError, ValueError, OverflowError):
        return Reverted(f"cannot {action}: unknown refusal 0x{raw[:68].hex()}", selector=selector)
    if kind == "string":
        return Reverted(
            f"cannot {action}: {value[:300]}", name="Error", args_by_name={"reason": value}, selector=selector
        )
    words = _PANICS.get(value, f"code {value:#x}")
    return Reverted(
        f"cannot {action}: the contract stopped with {words}",
        name="Panic",
        args_by_name={"code": value},
        selector=selector,
    )


def _typed(component: dict[str, Any], value: Any) -> Any:
    kind = _ENUMS.get(component.get("internalType", ""))
    if kind is not None and value in kind._value2member_map_:
        return kind(value)
    return value


def _shown(error: str, key: str, value: Any) -> str:
    if isinstance(value, bytes):
        if key in _TEXTS:
            return value.rstrip(b"\0").decode("ascii", "replace")
        return f"0x{value.hex()[:16]}…"
    if error == "JobMarket_NoFault" and key == "kind":
        return f"its verdict is {Verdict(value).name.lower()}" if value in set(Verdict) else "it gave no verdict"
    return value.name.capitalize() if isinstance(value, IntEnum) else str(value)
