"""JSON-RPC to one endpoint: a method in, its raw result out, and three kinds of failure told apart.

- `ChainUnavailable`: no answer, or none that is JSON-RPC; the same call may be tried again.
- `RpcRefused` with revert data: a contract said no (reverts.py turns it into words).
- `RpcRefused` without: the node said no ("nonce too low"), and its message is all there is.

web3's provider carries the bytes; it may be used by several threads at once. Next in the flow: gateway.py.
"""

from __future__ import annotations

import os
import re
from typing import Any

import requests
from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint

from tolsey.errors import ChainUnavailable

MAX_MESSAGE = 500


class RpcRefused(Exception):
    """The node's error object.

    Args:
        code: JSON-RPC error code. message: the node's words, cut at MAX_MESSAGE.
        revert_data: what the contract reverted with, or None where no contract did.
    """

    def __init__(self, code: int, message: str, revert_data: bytes | None) -> None:
        super().__init__(message)
        self.code, self.message, self.revert_data = code, message, revert_data


class Rpc:
    """One endpoint.

    Args:
        url: http or https. timeout_s: for connecting, and for each wait for bytes.
    """

    def __init__(self, url: str, *, timeout_s: float = 10) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._connect()

    def _connect(self) -> None:
        # The callers retry where it is right to; web3's own retries would hide a dead node for seconds.
        self._provider = HTTPProvider(
            self.url, request_kwargs={"timeout": self._timeout_s}, exception_retry_configuration=None
        )
        self._pid = os.getpid()

    def call(self, method: str, *params: Any) -> Any:
        """The `result` of one request.

        Raises:
            ChainUnavailable: see above. RpcRefused: an error object came back.
        """
        if self._pid != os.getpid():  # a forked process would read the answers to its parent's requests
            self._connect()
        try:
            answer: Any = self._provider.make_request(RPCEndpoint(method), list(params))
        except (requests.RequestException, Web3Exception, ValueError, OSError) as error:
            raise ChainUnavailable(
                f"{self.url} does not answer {method}: {_reason(error)}",
                fix="tolsey chain status, or another rpc_url in the network file",
            ) from error
        if not isinstance(answer, dict) or not ("result" in answer or "error" in answer):
            raise ChainUnavailable(f"{self.url} answered {method} with something that is not JSON-RPC")
        if answer.get("error") is not None:
            raise _refused(answer["error"])
        return answer["result"]

    def number(self, method: str, *params: Any) -> int:
        """`call` for a result that is a quantity."""
        result = self.call(method, *params)
        try:
            return int(result, 16)
        except (TypeError, ValueError) as error:
            raise ChainUnavailable(f"{self.url} answered {method} with {result!r}, a number is due") from error


def _refused(error: Any) -> RpcRefused:
    if not isinstance(error, dict):
        return RpcRefused(-32000, str(error)[:MAX_MESSAGE], None)
    message = str(error.get("message", "no reason given"))[:MAX_MESSAGE]
    data = error.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = data.get("data") or data.get("result")
    found = re.search(r"0x(?:[0-9a-fA-F]{2})*", data) if isinstance(data, str) else None
    code = error.get("code")
    if found is None:
        reverted = "revert" in message.lower()
        return RpcRefused(code if isinstance(code, int) else -32000, message, b"" if reverted else None)
    return RpcRefused(code if isinstance(code, int) else -32000, message, bytes.fromhex(found[0][2:]))


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"{type(error).__name__}: {str(error)[:200]}"
