"""Puts a market on a chain: token (local chains only), beacon, market, judge, in this order.

Market and judge name each other and neither can be changed, so the market is given the address that the judge will
have (an address follows from deployer and nonce). After the last transaction everything is read back and compared; a
deployment that does not fit is refused before anybody puts money into it. A test dollar is never put on a chain where
money may be real: there `token` must be given. Next in the flow: network_file.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import rlp  # type: ignore[import-untyped]  # ships no types
from eth_utils.address import to_checksum_address

from tolsey.contracts.abi import interface
from tolsey.contracts.actions import Action
from tolsey.contracts.artifacts import artifact
from tolsey.contracts.blocks import Blocks
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.rpc import Rpc
from tolsey.contracts.sending import send_and_wait
from tolsey.contracts.transactions import Transactions, TxReceipt
from tolsey.contracts.views import NOBODY
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ChainError, ConfigError
from tolsey.protocol.encoding import keccak256
from tolsey.protocol.offer import LOCAL_CLOCKS, PUBLIC_CLOCKS, Clocks
from tolsey.protocol.units import Account, BasisPoints, Seconds, TokenUnits

LOCAL_CHAINS = frozenset({31_337, 1_337, 131_277_322_940_537})
"""anvil and hardhat, geth --dev and ganache, eth-tester; the list in TestDollar.sol."""
DOLLAR = 1_000_000
"""Token units of a dollar with 6 decimals, as TestDollar and the common stablecoins have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The parameters of a deployment but for its addresses (docs/protocol.md section 4); amounts in token units."""

    treasury: Account
    fee_bps: BasisPoints
    worker_bond: TokenUnits
    verifier_bond: TokenUnits
    challenge_bond: TokenUnits
    panel_fee: TokenUnits
    min_job_bond: TokenUnits
    max_window_s: Seconds
    min_verdict_window_s: Seconds
    panel_window_s: Seconds
    unbonding_s: Seconds | None = None
    """None takes the least that the contract allows."""

    @property
    def least_unbonding_s(self) -> Seconds:
        """Longer than any dispute lives (docs/protocol.md section 4)."""
        return Seconds(2 * self.max_window_s + 3 * (2 * self.panel_window_s + self.max_window_s) + 1)


LOCAL_TERMS = Terms(
    treasury=NOBODY,
    fee_bps=BasisPoints(0),
    worker_bond=TokenUnits(100 * DOLLAR),
    verifier_bond=TokenUnits(200 * DOLLAR),
    challenge_bond=TokenUnits(20 * DOLLAR),
    panel_fee=TokenUnits(1 * DOLLAR),
    min_job_bond=TokenUnits(10 * DOLLAR),
    max_window_s=Seconds(3_600),
    min_verdict_window_s=Seconds(5),
    panel_window_s=Seconds(30),  # a panel of honest members on a busy laptop must not time out
)
PUBLIC_TERMS = replace(
    LOCAL_TERMS,
    max_window_s=Seconds(172_800),
    min_verdict_window_s=Seconds(3_600),
    panel_window_s=Seconds(43_200),
    unbonding_s=Seconds(14 * 86_400),
)
"""Two days for any clock, half a day to vote: longer than the outages of a rollup's sequencer so far (hours)."""


def deploy(
    rpc_url: str,
    wallet: Wallet,
    terms: Terms,
    *,
    name: str,
    token: Account | None = None,
    confirmations: int | None = None,
    clocks: Clocks | None = None,
    timeout_s: float = 600,
    log: Callable[[str], None] = lambda line: None,
) -> NetworkFile:
    """Deploys a market and gives its network file; blocks until everything is mined and compared.

    Args:
        token: the market's ERC-20; None makes a test dollar, on local chains only.
        confirmations, clocks: for the file; None takes 0 and local clocks on a local chain, else 12 and public ones.
        log: told one line per contract.

    Raises:
        ConfigError: no token on a chain that is not local.
        Reverted: a parameter is out of bounds. InsufficientFunds: no ETH. ChainUnavailable: as the word says.
    """
    yard = _Yard(rpc_url, wallet, timeout_s, log)
    is_local = yard.chain_id in LOCAL_CHAINS
    if token is None:
        if not is_local:
            raise ConfigError(
                f"chain {yard.chain_id} is not a local one, so it gets no test dollar",
                fix="--token ADDRESS of the ERC-20 that the market shall use",
            )
        token = yard.create("TestDollar")
    beacon = yard.create("PrevrandaoBeacon")
    judge = yard.address_after(1)
    params = (
        token, terms.treasury, terms.fee_bps, terms.worker_bond, terms.verifier_bond, terms.challenge_bond,
        terms.panel_fee, terms.min_job_bond, terms.unbonding_s or terms.least_unbonding_s, terms.max_window_s,
        terms.min_verdict_window_s, terms.panel_window_s, beacon, judge,
    )  # fmt: skip
    market = yard.create("JobMarket", params)
    first_block = yard.last.block_number
    if yard.create("PanelJudge", market) != judge:
        raise ChainError(
            f"the judge is at {yard.last.contract}, the market expects it at {judge}: another transaction of "
            f"{wallet.account} came between",
            fix="deploy again from an account that nothing else uses",
        )
    network = NetworkFile(
        name=name,
        chain_id=yard.chain_id,
        rpc_url=rpc_url,
        market=market,
        judge=judge,
        token=token,
        beacon=beacon,
        deployed_block=first_block,
        confirmations=(0 if is_local else 12) if confirmations is None else confirmations,
        clocks=clocks or (LOCAL_CLOCKS if is_local else PUBLIC_CLOCKS),
    )
    Gateway(network, None).check_chain()
    return network


class _Yard:
    """Creates contracts one after the other."""

    def __init__(self, rpc_url: str, wallet: Wallet, timeout_s: float, log: Callable[[str], None]) -> None:
        rpc = Rpc(rpc_url)
        self.chain_id = rpc.number("eth_chainId")
        self.last: TxReceipt
        self._transactions = Transactions(rpc, Blocks(rpc, NOBODY, NOBODY), self.chain_id, wallet)
        self._timeout_s, self._log = timeout_s, log

    def create(self, name: str, *args: object) -> Account:
        """The address of a new contract."""
        data = interface(name).creation(artifact(name).bytecode, *args)
        action = Action(to=None, data=data, description=f"deploy {name}")
        self.last = send_and_wait(self._transactions, action, timeout_s=self._timeout_s)
        made = self.last.contract
        if made is None:
            raise ChainError(f"the receipt of {name} names no contract")
        self._log(f"{name} at {made}, {self.last.gas_used} gas")
        return made

    def address_after(self, transactions: int) -> Account:
        """Where the contract will stand that this wallet creates after so many further transactions."""
        nonce = self._transactions.next_nonce() + transactions
        sender = bytes.fromhex(self._transactions.wallet.account[2:])
        return Account(str(to_checksum_address(keccak256(rlp.encode([sender, nonce]))[12:])))
