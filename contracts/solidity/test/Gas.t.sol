// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {Tags} from "../libraries/Tags.sol";
import {Market} from "./Market.sol";

/// @notice What each flow costs, in gas of whole transactions (isolate mode: intrinsic gas, calldata, cold slots, refunds).
/// The steady state is measured: everybody has traded before, so no account's slot is new; the fee is 0 as by default.
/// The figures are in gas.json; docs and the benchmark print them from there, and a regression is a line in its diff.
contract GasTest is Market {
    uint256 private constant HONEST_JOB_TARGET = 230_000;

    string private figures;
    uint256 private total;

    function feeBps() internal pure override returns (uint16) {
        return 0;
    }

    /// @dev One job first, so that nobody's slot is written for the first time.
    function setUp() public override {
        super.setUp();
        IJobMarket.Offer memory offer = oneWindow();
        offer.nonce = 1;
        bytes32 id = drawn(offer);
        settleWindow(offer, id);
    }

    function test_gas_everyFlow_isRecorded() public {
        honestJob();
        verdict();
        money();
        registration();
        disputePointing();
        disputeDemand();
        vm.writeFile("out/gas.json", string.concat("{", figures, "\n}\n"));
    }

    function test_gas_honestJob_staysBelowTarget() public {
        honestJob();
        isTrue(total <= HONEST_JOB_TARGET, string.concat("an honest job costs ", vm.toString(total)));
    }

    function oneWindow() private view returns (IJobMarket.Offer memory offer) {
        offer = standardOffer();
        offer.segmentCount = 4;
        offer.clientSeal = Tags.sealOf(Tags.sealOf(CLIENT_SECRET));
    }

    function honestJob() private {
        IJobMarket.Offer memory offer = oneWindow();
        bytes memory signature = signed(offer);
        vm.prank(alice);
        bytes32 id = market.accept(offer, signature);
        uint256 sum = note("accept");
        bytes32 root = honestRoot(offer, id, 0);
        later(12);
        vm.prank(bob);
        market.commit(offer, root);
        sum += note("commit");
        later(12);
        vm.prank(alice);
        market.draw(offer, secretFor(0));
        sum += note("draw");
        afterDeadline(id);
        vm.prank(bob);
        market.settle(offer);
        sum += note("settle");
        total = sum;
        keep("honestJob", sum);
    }

    function verdict() private {
        IJobMarket.Offer memory offer = oneWindow();
        offer.nonce = 2;
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        uint256 sum = note("sealVerdict");
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 1, 0);
        sum += note("revealVerdict");
        keep("verdict", sum);
    }

    function money() private {
        dollar.mint(alice, 2 * DOLLAR);
        vm.prank(alice);
        market.deposit(uint128(DOLLAR));
        note("deposit");
        vm.prank(alice);
        market.withdraw(uint128(DOLLAR), alice);
        note("withdraw");
    }

    function registration() private {
        bytes memory peerId = bytes("12D3KooWGjMCyvVyVhNTuVVgLBWMzYRHSLmcHRcvYxwUQXBDGYHE");
        vm.prank(carol);
        market.registerWorker(peerId, new bytes(64));
        note("registerWorker");
        vm.prank(carol);
        market.registerVerifier(CLASS, Tags.sealOf("carol"), peerId, new bytes(64));
        note("registerVerifier");
    }

    function disputePointing() private {
        IJobMarket.Offer memory offer = oneWindow();
        offer.nonce = 3;
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 2);
        vm.prank(mallory);
        market.sealChallenge(Tags.challengeSeal(mallory, id, 2, "mine", "salt"));
        uint256 sum = note("sealChallenge");
        later(12);
        vm.prank(mallory);
        market.challenge(offer, opening, "mine", "salt");
        sum += note("challenge");
        bytes32 disputeId = Tags.disputeId(id, 2);
        later(12);
        judge.drawPanel(disputeId);
        sum += note("drawPanel");
        address[] memory panel = judge.panelOf(disputeId);
        sum += vote(disputeId, panel);
        later(1);
        judge.close(disputeId);
        sum += note("closePanel");
        market.resolve(offer);
        sum += note("resolveSlash");
        keep("disputePointed", sum);
    }

    function vote(bytes32 disputeId, address[] memory panel) private returns (uint256 sum) {
        for (uint256 i = 0; i < panel.length; ++i) {
            vm.prank(panel[i]);
            judge.sealVote(disputeId, Tags.voteSeal(disputeId, 0, panel[i], 2, "vote"));
            sum += i == 0 ? note("sealVote") : lastCall();
        }
        later(params.panelWindowS + 1);
        for (uint256 i = 0; i < panel.length; ++i) {
            vm.prank(panel[i]);
            judge.revealVote(disputeId, 2, "vote");
            sum += i == 0 ? note("revealVote") : lastCall();
        }
    }

    function disputeDemand() private {
        IJobMarket.Offer memory offer = oneWindow();
        offer.nonce = 4;
        bytes32 id = drawn(offer);
        vm.prank(mallory);
        market.demand(offer, 2);
        note("demand");
        IJobMarket.Opening memory opening = opened(offer, id, 2);
        vm.prank(bob);
        market.answer(offer, opening);
        note("answer");
    }

    function lastCall() private view returns (uint256) {
        return vm.lastCallGas().gasTotalUsed;
    }

    function note(string memory name) private returns (uint256 gasUsed) {
        gasUsed = lastCall();
        keep(name, gasUsed);
    }

    function keep(string memory name, uint256 gasUsed) private {
        figures =
            string.concat(figures, bytes(figures).length == 0 ? "\n" : ",\n", '  "', name, '": ', vm.toString(gasUsed));
    }
}
