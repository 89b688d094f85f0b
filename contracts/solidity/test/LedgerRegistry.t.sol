// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {JobMarket} from "../JobMarket.sol";
import "../libraries/Errors.sol";
import {Tags} from "../libraries/Tags.sol";
import {TestDollar} from "../TestDollar.sol";
import {Market} from "./Market.sol";

/// @notice A token that calls back while it moves, and keeps a part if told so.
contract HostileToken is ERC20 {
    address public target;
    bytes public payload;
    uint256 public keep;
    bool public called;

    constructor() ERC20("Hostile", "BAD") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function arm(address target_, bytes calldata payload_) external {
        (target, payload, called) = (target_, payload_, false);
    }

    function skim(uint256 keep_) external {
        keep = keep_;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (target != address(0) && !called) {
            called = true;
            (bool done, bytes memory why) = target.call(payload);
            if (!done) {
                assembly ("memory-safe") {
                    revert(add(why, 32), mload(why))
                }
            }
        }
        super._update(from, to, amount);
        if (keep != 0 && from != address(0)) super._update(to, address(this), keep);
    }
}

/// @notice Money in and out, and who may work or verify; the plan is LedgerRegistry.tree.
contract LedgerRegistryTest is Market {
    // --- deposit, withdraw ---

    function test_withdraw_freeUnits_sendsTokens() public {
        vm.prank(alice);
        market.withdraw(uint128(3 * DOLLAR), carol);
        same(dollar.balanceOf(carol), 3 * DOLLAR, "tokens");
        same(free(alice), WEALTH - 3 * DOLLAR, "free");
        booksBalance();
    }

    function test_withdraw_lockedUnits_reverts() public {
        uint256 all = free(bob) + locked(bob);
        vm.expectPartialRevert(Ledger_InsufficientFree.selector);
        vm.prank(bob);
        market.withdraw(uint128(all), bob);
    }

    function test_withdraw_toMarketOrZero_reverts() public {
        vm.expectPartialRevert(Ledger_WithdrawalRefused.selector);
        vm.prank(alice);
        market.withdraw(1, address(market));
        vm.expectPartialRevert(Ledger_WithdrawalRefused.selector);
        vm.prank(alice);
        market.withdraw(1, address(0));
    }

    function test_withdraw_burnAccount_reverts() public {
        vm.expectPartialRevert(Ledger_WithdrawalRefused.selector);
        vm.prank(BURN);
        market.withdraw(0, alice);
    }

    function test_deposit_nothing_reverts() public {
        vm.expectPartialRevert(Ledger_NothingArrived.selector);
        vm.prank(alice);
        market.deposit(0);
    }

    function test_deposit_feeOnTransfer_creditsWhatArrived() public {
        HostileToken token = hostile();
        token.skim(10);
        vm.prank(alice);
        market.deposit(100);
        same(free(alice), 90, "free");
        same(token.balanceOf(address(market)), 90, "balance");
    }

    function test_deposit_reentered_reverts() public {
        HostileToken token = hostile();
        token.arm(address(market), abi.encodeCall(market.deposit, (uint128(50))));
        vm.expectRevert();
        vm.prank(alice);
        market.deposit(100);
    }

    function test_withdraw_reentered_reverts() public {
        HostileToken token = hostile();
        vm.prank(alice);
        market.deposit(100);
        token.arm(address(market), abi.encodeCall(market.withdraw, (uint128(100), alice)));
        vm.expectRevert();
        vm.prank(alice);
        market.withdraw(100, alice);
        same(free(alice), 100, "free");
    }

    function testFuzz_deposit_thenWithdraw_isNeutral(uint256 amount) public {
        uint128 part = uint128(pick(amount, 1, 1e30));
        dollar.mint(alice, part);
        uint256 before = free(alice);
        vm.prank(alice);
        market.deposit(part);
        same(free(alice), before + part, "free");
        vm.prank(alice);
        market.withdraw(part, alice);
        same(free(alice), before, "free again");
        booksBalance();
    }

    // --- workers ---

    function test_registerWorker_twice_reverts() public {
        vm.expectPartialRevert(Registry_AlreadyRegistered.selector);
        vm.prank(bob);
        market.registerWorker("peer", new bytes(64));
    }

    function test_registerWorker_badBinding_reverts() public {
        vm.expectPartialRevert(Registry_BadPeerBinding.selector);
        vm.prank(alice);
        market.registerWorker("", new bytes(64));
        vm.expectPartialRevert(Registry_BadPeerBinding.selector);
        vm.prank(alice);
        market.registerWorker(new bytes(65), new bytes(64));
        vm.expectPartialRevert(Registry_BadPeerBinding.selector);
        vm.prank(alice);
        market.registerWorker("peer", new bytes(65));
    }

    function test_withdrawWorkerBond_afterUnbonding_freesIt() public {
        vm.prank(bob);
        market.requestWorkerExit();
        later(params.unbondingS);
        vm.prank(bob);
        market.withdrawWorkerBond();
        same(free(bob), WEALTH, "free");
        same(locked(bob), 0, "locked");
        register(bob); // and back again
    }

    function test_withdrawWorkerBond_early_reverts() public {
        vm.prank(bob);
        market.requestWorkerExit();
        later(params.unbondingS - 1);
        vm.expectPartialRevert(Registry_BondLocked.selector);
        vm.prank(bob);
        market.withdrawWorkerBond();
    }

    function test_withdrawWorkerBond_staying_reverts() public {
        vm.expectPartialRevert(Registry_NotLeaving.selector);
        vm.prank(bob);
        market.withdrawWorkerBond();
    }

    function test_requestWorkerExit_twice_reverts() public {
        vm.prank(bob);
        market.requestWorkerExit();
        vm.expectPartialRevert(Registry_Leaving.selector);
        vm.prank(bob);
        market.requestWorkerExit();
    }

    function test_requestWorkerExit_stranger_reverts() public {
        vm.expectPartialRevert(Registry_NotRegistered.selector);
        vm.prank(alice);
        market.requestWorkerExit();
    }

    // --- verifiers ---

    function test_registerVerifier_takesTheNextPlace() public {
        enlist(mallory);
        same(market.poolSize(CLASS), VERIFIERS + 1, "pool");
        same(market.verifierAt(CLASS, VERIFIERS), mallory, "place");
    }

    function test_registerVerifier_twiceOrWithoutSecret_reverts() public {
        vm.expectPartialRevert(Registry_AlreadyRegistered.selector);
        vm.prank(verifiers[0]);
        market.registerVerifier(CLASS, "hash", "peer", new bytes(64));
        vm.expectPartialRevert(Registry_WrongSecret.selector);
        vm.prank(mallory);
        market.registerVerifier(CLASS, 0, "peer", new bytes(64));
    }

    function test_requestVerifierExit_wrongSecret_reverts() public {
        vm.expectPartialRevert(Registry_WrongSecret.selector);
        vm.prank(verifiers[0]);
        market.requestVerifierExit(CLASS, "guess");
    }

    function test_withdrawVerifierBond_place_isReusedOnlyAfterExit() public {
        vm.prank(verifiers[1]);
        market.requestVerifierExit(CLASS, secretOf(verifiers[1]));
        enlist(mallory);
        same(market.verifierAt(CLASS, 1), verifiers[1], "still there");
        later(params.unbondingS);
        vm.prank(verifiers[1]);
        market.withdrawVerifierBond(CLASS);
        same(free(verifiers[1]), WEALTH, "bond back");
        enlist(carol);
        same(market.verifierAt(CLASS, 1), carol, "place given on");
        same(market.poolSize(CLASS), VERIFIERS + 1, "pool did not grow");
    }

    function test_withdrawVerifierBond_twice_reverts() public {
        vm.prank(verifiers[1]);
        market.requestVerifierExit(CLASS, secretOf(verifiers[1]));
        later(params.unbondingS);
        vm.prank(verifiers[1]);
        market.withdrawVerifierBond(CLASS);
        vm.expectPartialRevert(Registry_NotLeaving.selector);
        vm.prank(verifiers[1]);
        market.withdrawVerifierBond(CLASS);
    }

    // --- construction ---

    function test_constructor_eachParameterOutOfBounds_reverts() public {
        for (uint256 i = 0; i < 9; ++i) {
            IJobMarket.Params memory p = params;
            if (i == 0) p.feeBps = 201;
            if (i == 1) p.treasury = address(0);
            if (i == 2) p.challengeBond = 6 * p.panelFee - 1;
            if (i == 3) p.minJobBond = 6 * p.panelFee - 1;
            if (i == 4) p.verifierBond = 2 * p.panelFee - 1;
            if (i == 5) p.unbondingS = 2 * p.maxWindowS + 3 * (2 * p.panelWindowS + p.maxWindowS);
            if (i == 6) p.panelWindowS = 0;
            if (i == 7) p.minVerdictWindowS = 0;
            if (i == 8) p.maxWindowS = 2 * p.minVerdictWindowS;
            vm.expectPartialRevert(JobMarket_BadParameter.selector);
            new JobMarket(p);
        }
    }

    function test_constructor_testDollarOnPublicChain_reverts() public {
        vm.chainId(1);
        vm.expectPartialRevert(TestDollar_NotALocalChain.selector);
        new TestDollar();
    }

    function hostile() private returns (HostileToken token) {
        token = new HostileToken();
        deploy(IERC20(address(token)), 0);
        token.mint(alice, 1000);
        vm.prank(alice);
        token.approve(address(market), type(uint256).max);
    }
}
