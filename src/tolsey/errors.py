"""Who is to blame, as a tree of exceptions.

    TolseyError
    ├─ ConfigError            the user can fix it; the message quotes the line and the fix
    │  ├─ SpecInvalid         the job as written cannot be a job
    │  ├─ UnsupportedOp       the model uses an operation outside the closed list
    │  └─ InsufficientFunds   the wallet or the ledger holds too little
    ├─ LocalViolation         we broke our own protocol: a bug; never caught except to log and stop
    ├─ RemoteViolation        a peer broke it; carries peer id and the evidence bytes
    ├─ NetworkError           nobody's fault; retry with backoff
    │  ├─ PeerUnreachable
    │  └─ PeerTimeout
    ├─ ChainError
    │  ├─ ChainUnavailable    the RPC endpoint does not answer, or is on another chain
    │  ├─ Reverted            a contract said no; selector and arguments kept
    │  └─ Reorged             a block we relied on is gone
    ├─ VerificationError
    │  ├─ ProofInvalid        bytes do not match the root that they claim
    │  ├─ ReplayMismatch      the same segment gave other bits
    │  ├─ CheckpointUnavailable   nobody serves a committed checkpoint
    │  └─ ClassMismatch       this machine is of another numerics class: no verdict possible
    ├─ MarketError            the market has nothing for this client now
    │  └─ NoOffer             no worker's offer fits; carries why each was dropped
    └─ StorageError           disk full, quota reached, database newer than this program

Blame comes first because a slash needs evidence that the other side erred: "something failed" is never enough.
Every error speaks to a person through `diagnostics()`; the command line prints that and keeps the traceback for
`--verbose`. `exit_code` is what `tolsey` exits with (docs/errors.md lists them; a test compares).
"""

from __future__ import annotations


class TolseyError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: one sentence that names the two values that disagree.
        fix: the next command to type, or the thing to change; printed after the message.
    """

    exit_code = 1
    blame = "tolsey"

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def diagnostics(self) -> str:
        """The message for a person: what is wrong and what to do next."""
        return self.message if self.fix is None else f"{self.message}\n  try: {self.fix}"


class ConfigError(TolseyError):
    exit_code = 2
    blame = "user"


class SpecInvalid(ConfigError):
    exit_code = 2


class UnsupportedOp(SpecInvalid):
    exit_code = 2


class InsufficientFunds(ConfigError):
    exit_code = 3


class LocalViolation(TolseyError):
    exit_code = 70


class RemoteViolation(TolseyError):
    """A peer broke the protocol.

    Args:
        peer_id: base58 libp2p peer id of the offender, or "" when not known.
        evidence: the bytes that show it; may lead to a challenge.
    """

    exit_code = 4
    blame = "peer"

    def __init__(self, message: str, *, peer_id: str = "", evidence: bytes = b"", fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.peer_id = peer_id
        self.evidence = evidence


class NetworkError(TolseyError):
    exit_code = 5
    blame = "network"


class PeerUnreachable(NetworkError):
    pass


class PeerTimeout(NetworkError):
    pass


class ChainError(TolseyError):
    exit_code = 6
    blame = "chain"


class ChainUnavailable(ChainError):
    exit_code = 6


class Reverted(ChainError):
    """A contract refused a call.

    Args:
        name: the custom error's name, such as `JobMarket_WrongState`, or "" for an unknown selector.
        args_by_name: its arguments by parameter name.
        selector: first four bytes of the revert data.
    """

    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        name: str = "",
        args_by_name: dict[str, object] | None = None,
        selector: bytes = b"",
        fix: str | None = None,
    ) -> None:
        super().__init__(message, fix=fix)
        self.name = name
        self.args_by_name = args_by_name or {}
        self.selector = selector


class Reorged(ChainError):
    pass


class VerificationError(TolseyError):
    exit_code = 8
    blame = "worker"


class ProofInvalid(VerificationError):
    pass


class ReplayMismatch(VerificationError):
    pass


class CheckpointUnavailable(VerificationError):
    pass


class ClassMismatch(VerificationError):
    blame = "nobody"


class MarketError(TolseyError):
    exit_code = 9
    blame = "market"


class NoOffer(MarketError):
    """No offer fits.

    Args:
        dropped: worker account (0x…) -> the reason its offer was not considered.
    """

    def __init__(self, message: str, *, dropped: dict[str, str] | None = None, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.dropped = dropped or {}


class StorageError(TolseyError):
    exit_code = 10
    blame = "disk"
