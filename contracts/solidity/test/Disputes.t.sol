// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {IPanelJudge} from "../interfaces/IPanelJudge.sol";
import {IStepJudge} from "../interfaces/IStepJudge.sol";
import "../libraries/Errors.sol";
import {Tags} from "../libraries/Tags.sol";
import {Market} from "./Market.sol";
import {Vm} from "./Vm.sol";

/// @notice Makes one call that its own caller's calldata does not show.
contract Forwarder {
    address private immutable _to;
    bytes private _call;

    constructor(address to, bytes memory call_) {
        (_to, _call) = (to, call_);
    }

    function run() external {
        (bool done,) = _to.call(_call);
        require(done);
    }
}

/// @notice Rows 8 and 10 to 17 of the table, the slash, the penalties and the panel; the plan is Disputes.tree.
contract DisputesTest is Market {
    uint256 private constant NOTHING = type(uint256).max;

    // --- sealVerdict, revealVerdict ---

    function test_revealVerdict_match_paysTheFee() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        uint256 before = free(verifier);
        sealAs(offer, verifier, 1, 0);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 1, 0);
        same(free(verifier), before + offer.verdictFee, "verifier's free");
        same(market.job(id).verdictsPaid, 1, "verdicts paid");
        same(market.verdict(id, 0, verifier).kind, 1, "kind");
        same(market.sample(offer, 0, verifier).length, 2, "sample");
        booksBalance();
    }

    function test_revealVerdict_abstain_paysNothing() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[1];
        uint256 before = free(verifier);
        sealAs(offer, verifier, 4, 0);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 4, 0);
        same(free(verifier), before, "verifier's free");
    }

    function test_revealVerdict_duringDispute_stillCounts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(mallory);
        market.demand(offer, 1);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        vm.prank(bob);
        market.answer(offer, opening);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 1, 0);
        same(market.job(id).verdictsPaid, 1, "verdicts paid");
    }

    function test_revealVerdict_anotherKind_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        later(offer.verdictWindowS + 1);
        uint128 salt = saltOf(verifier, market.jobId(offer), 0);
        vm.expectPartialRevert(JobMarket_WrongSeal.selector);
        vm.prank(verifier);
        market.revealVerdict(offer, 2, 0, salt);
    }

    function test_revealVerdict_copiedSeal_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        address[] memory pair = market.drawnVerifiers(offer);
        sealAs(offer, pair[0], 1, 0);
        bytes32 copied = market.verdict(id, 0, pair[0]).seal;
        vm.prank(pair[1]);
        market.sealVerdict(offer, copied);
        later(offer.verdictWindowS + 1);
        uint128 salt = saltOf(pair[0], id, 0);
        vm.expectPartialRevert(JobMarket_WrongSeal.selector);
        vm.prank(pair[1]);
        market.revealVerdict(offer, 1, 0, salt);
    }

    function test_revealVerdict_tooEarly_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        uint128 salt = saltOf(verifier, market.jobId(offer), 0);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        vm.prank(verifier);
        market.revealVerdict(offer, 1, 0, salt);
    }

    function test_revealVerdict_late_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        later(2 * offer.verdictWindowS + 1);
        uint128 salt = saltOf(verifier, market.jobId(offer), 0);
        vm.expectPartialRevert(JobMarket_WindowClosed.selector);
        vm.prank(verifier);
        market.revealVerdict(offer, 1, 0, salt);
    }

    function test_sealVerdict_twice_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        vm.expectPartialRevert(JobMarket_AlreadySealed.selector);
        vm.prank(verifier);
        market.sealVerdict(offer, "again");
    }

    function test_sealVerdict_notDrawn_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        vm.expectPartialRevert(JobMarket_NotDrawn.selector);
        vm.prank(mallory);
        market.sealVerdict(offer, "seal");
    }

    function test_sealVerdict_exactlyTheDrawn_maySeal() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        uint256 may;
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            vm.prank(verifiers[i]);
            (bool done,) = address(market).call(abi.encodeCall(market.sealVerdict, (offer, bytes32("seal"))));
            if (done) ++may;
        }
        same(may, 2, "who may seal");
    }

    function test_sealVerdict_leaving_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        depart(verifier);
        vm.expectPartialRevert(Registry_Leaving.selector);
        vm.prank(verifier);
        market.sealVerdict(offer, "seal");
    }

    function test_sealVerdict_newcomerInEmptiedPlace_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        offer.verifierCount = 5;
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            depart(verifiers[i]);
        }
        later(params.unbondingS - 1);
        offer.expiresAt = uint40(block.timestamp + 1 days);
        drawn(offer);
        later(1);
        vm.prank(verifiers[0]);
        market.withdrawVerifierBond(CLASS);
        enlist(mallory);
        same(market.verifierAt(CLASS, 0), mallory, "place");
        vm.expectPartialRevert(JobMarket_NotDrawn.selector);
        vm.prank(mallory);
        market.sealVerdict(offer, "seal");
        same(market.drawnVerifiers(offer).length, 4, "drawn");
    }

    // --- penalizeSilence ---

    function test_penalizeSilence_silent_losesTwoFees() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        later(2 * offer.verdictWindowS + 1);
        uint256 before = free(mallory);
        vm.prank(mallory);
        market.penalizeSilence(offer, verifier);
        same(locked(verifier), params.verifierBond - 2 * offer.verdictFee, "verifier's locked");
        same(free(mallory), before + offer.verdictFee, "caller's half");
        same(free(BURN), offer.verdictFee, "burned half");
        booksBalance();
    }

    function test_penalizeSilence_sealedNotRevealed_losesTwoFees() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        later(2 * offer.verdictWindowS + 1);
        market.penalizeSilence(offer, verifier);
        same(locked(verifier), params.verifierBond - 2 * offer.verdictFee, "verifier's locked");
    }

    function test_penalizeSilence_twice_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        later(2 * offer.verdictWindowS + 1);
        market.penalizeSilence(offer, verifier);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeSilence(offer, verifier);
    }

    function test_penalizeSilence_afterSettlement_works() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        settleWindow(offer, id);
        market.penalizeSilence(offer, verifier);
        same(market.verdict(id, 0, verifier).kind, 5, "kind");
    }

    function test_penalizeSilence_revealed_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 3, 2);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 3, 2);
        later(offer.verdictWindowS + 1);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeSilence(offer, verifier);
    }

    function test_penalizeSilence_tooEarly_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        later(2 * offer.verdictWindowS);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.penalizeSilence(offer, verifier);
    }

    function test_penalizeSilence_jobSlashedBeforeTime_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        vm.prank(carol);
        market.demand(offer, 1);
        later(offer.verdictWindowS + 1);
        market.resolve(offer);
        later(30 days);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.penalizeSilence(offer, verifier);
    }

    function test_penalizeSilence_leavingAtDraw_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            depart(verifiers[i]);
        }
        later(1);
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        later(2 * offer.verdictWindowS + 1);
        vm.expectPartialRevert(Registry_Leaving.selector);
        market.penalizeSilence(offer, verifier);
    }

    function test_penalizeSilence_leavesAfterwards_stillPays() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        later(2 * offer.verdictWindowS + 1);
        depart(verifier);
        market.penalizeSilence(offer, verifier);
        same(locked(verifier), params.verifierBond - 2 * offer.verdictFee, "verifier's locked");
    }

    // --- penalizeFalseMatch, penalizeFalseSalt ---

    function test_penalizeFalseMatch_sampledSegmentRefuted_losesTheBond() public {
        (IJobMarket.Offer memory offer, address liar, uint256 segment) = slashedAfterMatch(true);
        isTrue(segment < 4, "sampled segment");
        vm.prank(mallory);
        market.penalizeFalseMatch(offer, liar);
        same(locked(liar), 0, "verifier's locked");
        booksBalance();
        vm.expectPartialRevert(Registry_NoBondLeft.selector);
        market.penalizeFalseMatch(offer, liar);
    }

    function test_penalizeFalseMatch_segmentNotSampled_reverts() public {
        (IJobMarket.Offer memory offer, address honest,) = slashedAfterMatch(false);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeFalseMatch(offer, honest);
    }

    function test_penalizeFalseMatch_unansweredDemand_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        (offer.sampleCount, offer.verifierCount) = (4, 5);
        drawn(offer);
        address honest = market.drawnVerifiers(offer)[0];
        sealAs(offer, honest, 1, 0);
        later(offer.verdictWindowS + 1);
        revealAs(offer, honest, 1, 0);
        vm.prank(carol);
        market.demand(offer, 1);
        later(offer.verdictWindowS + 1);
        market.resolve(offer);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeFalseMatch(offer, honest);
    }

    function test_penalizeFalseSalt_wrongSalt_losesTheBond() public {
        (IJobMarket.Offer memory offer, address verifier) = revealedWithSalt(42);
        depart(verifier);
        vm.prank(mallory);
        market.penalizeFalseSalt(offer, 0, verifier);
        same(locked(verifier), 0, "verifier's locked");
        booksBalance();
    }

    function test_penalizeFalseSalt_rightSalt_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        address verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 1, 0);
        depart(verifier);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeFalseSalt(offer, 0, verifier);
    }

    function test_penalizeFalseSalt_secretNotPublic_reverts() public {
        (IJobMarket.Offer memory offer, address verifier) = revealedWithSalt(42);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeFalseSalt(offer, 0, verifier);
    }

    function test_penalizeFalseSalt_laterRegistration_reverts() public {
        (IJobMarket.Offer memory offer, address verifier) = revealedWithSalt(42);
        depart(verifier);
        later(params.unbondingS);
        vm.prank(verifier);
        market.withdrawVerifierBond(CLASS);
        enlist(verifier);
        later(1);
        depart(verifier);
        vm.expectPartialRevert(JobMarket_NoFault.selector);
        market.penalizeFalseSalt(offer, 0, verifier);
    }

    // --- demand, answer ---

    function test_answer_opening_resumesAndPaysATenth() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        uint256 before = free(bob);
        later(offer.challengeWindowS - 1);
        vm.prank(carol);
        market.demand(offer, 3);
        same(locked(carol), params.challengeBond, "demander's locked");
        IJobMarket.Opening memory opening = opened(offer, id, 3);
        vm.prank(mallory); // whoever has it
        market.answer(offer, opening);
        stateIs(id, IJobMarket.State.Drawn);
        same(market.job(id).deadline, block.timestamp + offer.verdictWindowS, "at least one verdict window");
        same(free(bob), before + params.challengeBond / 10, "worker's tenth");
        same(locked(carol), 0, "demander's locked");
        booksBalance();
    }

    function test_answer_throughAContract_logsTheWholeOpening() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        IJobMarket.Opening memory opening = opened(offer, id, 3);
        Forwarder forwarder = new Forwarder(address(market), abi.encodeCall(market.answer, (offer, opening)));
        vm.recordLogs();
        forwarder.run(); // with calldata that says nothing
        Vm.Log memory log = vm.getRecordedLogs()[0];
        same(log.topics[0], IJobMarket.Answered.selector, "event");
        (,,,, uint32 segment, bytes32 inputRoot, bytes32 outputRoot, bytes32[] memory proof,,) = abi.decode(
            log.data,
            (IJobMarket.State, IJobMarket.State, uint16, uint40, uint32, bytes32, bytes32, bytes32[], uint256, uint256)
        );
        IJobMarket.Opening memory read = IJobMarket.Opening(segment, inputRoot, outputRoot, proof);
        same(keccak256(abi.encode(read)), keccak256(abi.encode(opening)), "opening");
    }

    function test_demand_answeredSegment_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        IJobMarket.Opening memory opening = opened(offer, id, 3);
        vm.prank(bob);
        market.answer(offer, opening);
        vm.expectPartialRevert(JobMarket_AlreadyAnswered.selector);
        vm.prank(carol);
        market.demand(offer, 3);
    }

    function test_demand_inTurns_cannotHoldTheWindow() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        // The worker's friend demands at the last moment, the worker answers at the last moment, and so on.
        uint256 turns;
        for (; turns < 20; ++turns) {
            vm.warp(market.job(id).deadline);
            uint256 segment = demandAny(offer);
            if (segment == NOTHING) break;
            later(offer.verdictWindowS);
            market.answer(offer, opened(offer, id, segment));
        }
        same(turns, offer.segmentsPerWindow, "each segment once");
        settleWindow(offer, id);
        stateIs(id, IJobMarket.State.Accepted);
    }

    function test_answer_anotherSegment_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        IJobMarket.Opening memory opening = opened(offer, id, 2);
        vm.expectPartialRevert(JobMarket_WrongSegment.selector);
        market.answer(offer, opening);
    }

    function test_answer_falseOpening_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        IJobMarket.Opening memory opening = opened(offer, id, 3);
        opening.outputRoot = "other";
        vm.expectPartialRevert(JobMarket_WrongOpening.selector);
        market.answer(offer, opening);
    }

    function test_answer_late_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        IJobMarket.Opening memory opening = opened(offer, id, 3);
        later(offer.verdictWindowS + 1);
        vm.expectPartialRevert(JobMarket_WindowClosed.selector);
        market.answer(offer, opening);
    }

    function test_demand_segmentOfAnotherWindow_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        vm.expectPartialRevert(JobMarket_WrongSegment.selector);
        vm.prank(carol);
        market.demand(offer, 4);
    }

    function test_demand_late_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        afterDeadline(id);
        vm.expectPartialRevert(JobMarket_WindowClosed.selector);
        vm.prank(carol);
        market.demand(offer, 1);
    }

    function test_resolve_unansweredDemand_slashes() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        (uint256 client, uint256 finder) = (free(alice), free(carol));
        vm.prank(carol);
        market.demand(offer, 3);
        later(offer.verdictWindowS + 1);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Slashed);
        same(free(carol), finder + offer.bond / 2, "finder's half");
        same(free(BURN), offer.bond - offer.bond / 2, "burned");
        same(free(alice), client + 105 * DOLLAR, "escrow back");
        lockedIsBondsOnly();
    }

    function test_resolve_demandStillOpen_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        vm.prank(carol);
        market.demand(offer, 3);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.resolve(offer);
    }

    // --- challenge ---

    function test_challenge_notSealed_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        vm.expectPartialRevert(JobMarket_ChallengeNotSealed.selector);
        vm.prank(carol);
        market.challenge(offer, opening, "mine", "salt");
    }

    function test_challenge_sealOfAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        vm.prank(carol);
        market.sealChallenge(Tags.challengeSeal(carol, id, 1, "mine", "salt"));
        later(12);
        vm.expectPartialRevert(JobMarket_ChallengeNotSealed.selector);
        vm.prank(mallory);
        market.challenge(offer, opening, "mine", "salt");
    }

    function test_challenge_sameBlockAsSeal_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        vm.prank(carol);
        market.sealChallenge(Tags.challengeSeal(carol, id, 1, "mine", "salt"));
        vm.expectPartialRevert(JobMarket_SameBlock.selector);
        vm.prank(carol);
        market.challenge(offer, opening, "mine", "salt");
    }

    function test_challenge_workersOwnRoot_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        vm.expectPartialRevert(JobMarket_NothingDisputed.selector);
        vm.prank(carol);
        market.challenge(offer, opening, opening.outputRoot, "salt");
    }

    function test_challenge_longerProof_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory opening = opened(offer, id, 1);
        opening.proof = new bytes32[](3);
        vm.expectPartialRevert(JobMarket_WrongOpening.selector);
        vm.prank(carol);
        market.challenge(offer, opening, "mine", "salt");
    }

    function test_challenge_judgedSegment_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, "mine");
        judged(disputeId, [1, 1, 1]);
        market.resolve(offer);
        bytes32 seal = Tags.challengeSeal(carol, id, 2, "other", "salt");
        vm.prank(carol);
        market.sealChallenge(seal);
        later(12);
        IJobMarket.Opening memory opening = opened(offer, id, 2);
        vm.expectPartialRevert(PanelJudge_AlreadyOpened.selector);
        vm.prank(carol);
        market.challenge(offer, opening, "other", "salt");
    }

    // --- resolve a challenge ---

    function test_resolve_workerWrong_paysInOrder() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        settleWindow(offer, id); // half the price is spent
        commitWindow(offer, id);
        drawWindow(offer, id);
        (uint256 client, uint256 finder) = (free(alice) + locked(alice), free(carol));
        bytes32 disputeId = challengeAs(carol, offer, id, opened(offer, id, 5), "mine");
        address[] memory panel = judged(disputeId, [2, 2, 2]);
        uint256 member = free(panel[0]);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Slashed);
        isTrue(market.dispute(id).matchRefuted, "match refuted");
        // 50 of bond: all to the client, who has spent 50.5.
        same(free(alice), client + offer.bond, "client made whole as far as the bond goes");
        same(free(panel[0]), member, "nothing left for the panel");
        same(free(carol), finder, "challenge bond back, nothing left for the finder");
        lockedIsBondsOnly();
    }

    function test_resolve_workerWrongAtOnce_sharesTheBond() public {
        IJobMarket.Offer memory offer = standardOffer();
        uint256 finder = free(carol);
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, "mine");
        address[] memory panel = judged(disputeId, [2, 1, 2]);
        uint256 member = free(panel[0]);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Slashed);
        uint256 rest = offer.bond - 2 * params.panelFee;
        same(free(panel[0]), member + params.panelFee, "panel fee");
        same(free(carol), finder + rest / 2, "finder's half");
        same(free(BURN), rest - rest / 2, "burned");
        lockedIsBondsOnly();
    }

    function test_resolve_neitherRight_burnsTheFindersShare() public {
        IJobMarket.Offer memory offer = standardOffer();
        uint256 finder = free(carol);
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        judged(disputeId, [3, 3, 3]);
        market.resolve(offer);
        same(free(carol), finder, "only the bond back");
        same(free(BURN), offer.bond - 3 * params.panelFee, "burned");
        lockedIsBondsOnly();
    }

    function test_resolve_unavailable_refutesNoMatch() public {
        IJobMarket.Offer memory offer = standardOffer();
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, 0);
        judged(disputeId, [4, 4, 4]);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Slashed);
        isTrue(!market.dispute(id).matchRefuted, "a match may have been true while the worker served");
    }

    function test_resolve_workerRight_takesTheChallengeBond() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 challenger, uint256 worker) = (free(carol), free(bob));
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, "mine");
        judged(disputeId, [1, 1, 1]);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Drawn);
        uint256 rest = params.challengeBond - 3 * params.panelFee;
        same(free(carol), challenger - params.challengeBond, "challenger's free");
        same(free(bob), worker - offer.bond + rest / 2, "worker's half");
        same(free(BURN), rest - rest / 2, "burned");
        settleWindow(offer, id);
        stateIs(id, IJobMarket.State.Accepted);
        booksBalance();
    }

    function test_resolve_selfChallenge_losesAtLeastAQuarter() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        uint256 before = free(bob) + locked(bob);
        bytes32 disputeId = challengeAs(bob, offer, id, opened(offer, id, 2), "mine");
        judged(disputeId, [2, 2, 2]);
        market.resolve(offer);
        uint256 rest = offer.bond - 3 * params.panelFee;
        isTrue(before - free(bob) - locked(bob) >= 3 * params.panelFee + rest / 4, "self-challenge must cost");
        lockedIsBondsOnly();
    }

    function test_resolve_noRuling_voids() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 client, uint256 worker, uint256 challenger) = (free(alice), free(bob), free(carol));
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, "mine");
        for (uint256 i = 0; i < 3; ++i) {
            judged(disputeId, [5, 5, 5]);
        }
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Voided);
        same(free(alice), client, "client's free");
        same(free(bob), worker, "worker's free");
        same(free(carol), challenger, "challenger's free");
        lockedIsBondsOnly();
    }

    function test_resolve_pending_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        challenged(offer, 2, "mine");
        vm.expectPartialRevert(JobMarket_NoRulingYet.selector);
        market.resolve(offer);
    }

    function test_resolve_judgeAsleep_voidsPastDeadline() public {
        IJobMarket.Offer memory offer = standardOffer();
        (bytes32 id,) = challenged(offer, 2, "mine");
        afterDeadline(id);
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Voided);
        lockedIsBondsOnly();
    }

    function test_resolve_notDisputed_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        drawn(offer);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        market.resolve(offer);
    }

    // --- proveDiscontinuity ---

    function test_proveDiscontinuity_brokenChain_slashes() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = accepted(offer);
        (bytes32 root, IJobMarket.Opening memory before, IJobMarket.Opening memory here) = brokenAt(offer, id, 2);
        vm.prank(bob);
        market.commit(offer, root);
        uint256 finder = free(carol);
        vm.prank(carol);
        market.proveDiscontinuity(offer, before, here);
        stateIs(id, IJobMarket.State.Slashed);
        same(free(carol), finder + offer.bond / 2, "finder's half");
        lockedIsBondsOnly();
    }

    function test_proveDiscontinuity_wrongStart_slashes() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = accepted(offer);
        (bytes32 root,, IJobMarket.Opening memory here) = brokenAt(offer, id, 0);
        vm.prank(bob);
        market.commit(offer, root);
        market.proveDiscontinuity(offer, here, here);
        stateIs(id, IJobMarket.State.Slashed);
    }

    function test_proveDiscontinuity_acrossWindows_slashes() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        settleWindow(offer, id);
        (bytes32 root, IJobMarket.Opening memory before, IJobMarket.Opening memory here) = brokenAt(offer, id, 4);
        vm.prank(bob);
        market.commit(offer, root);
        market.proveDiscontinuity(offer, before, here);
        stateIs(id, IJobMarket.State.Slashed);
        lockedIsBondsOnly();
    }

    function test_proveDiscontinuity_honest_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        for (uint256 i = 0; i < 4; ++i) {
            IJobMarket.Opening memory here = opened(offer, id, i);
            IJobMarket.Opening memory before = opened(offer, id, i == 0 ? 0 : i - 1);
            vm.expectPartialRevert(JobMarket_Continuous.selector);
            market.proveDiscontinuity(offer, before, here);
        }
    }

    function test_proveDiscontinuity_notNeighbours_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        IJobMarket.Opening memory here = opened(offer, id, 3);
        IJobMarket.Opening memory before = opened(offer, id, 1);
        vm.expectPartialRevert(JobMarket_WrongSegment.selector);
        market.proveDiscontinuity(offer, before, here);
    }

    // --- the panel ---

    function test_drawPanel_passesOverParties() public {
        enlist(alice);
        enlist(bob);
        enlist(carol);
        later(1);
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        later(12);
        judge.drawPanel(disputeId);
        address[] memory panel = judge.panelOf(disputeId);
        same(panel.length, 3, "panel");
        for (uint256 i = 0; i < 3; ++i) {
            isTrue(panel[i] != alice && panel[i] != bob && panel[i] != carol, "a party sits on the panel");
        }
    }

    function test_drawPanel_constantBeacon_cannotBeForeseen() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        uint256 openedIn = judge.caseOf(disputeId).phaseBlock;
        vm.roll(openedIn + 1); // the beacon stays what it was when the challenger chose the segment
        uint256 before = vm.snapshotState();
        bytes32[] memory panels = new bytes32[](8);
        bool differ;
        for (uint256 i = 0; i < panels.length; ++i) {
            vm.setBlockhash(openedIn, keccak256(abi.encode(i)));
            judge.drawPanel(disputeId);
            panels[i] = keccak256(abi.encode(judge.panelOf(disputeId)));
            differ = differ || panels[i] != panels[0];
            vm.revertToState(before);
        }
        isTrue(differ, "the challenger could choose its judges");
    }

    function test_drawPanel_sameBlock_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        vm.expectPartialRevert(PanelJudge_SameBlock.selector);
        judge.drawPanel(disputeId);
    }

    function test_drawPanel_nobodyMaySit_closesWithoutRuling() public {
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            depart(verifiers[i]);
        }
        later(1);
        IJobMarket.Offer memory offer = standardOffer();
        (bytes32 id, bytes32 disputeId) = challenged(offer, 2, "mine");
        later(12);
        judge.drawPanel(disputeId);
        same(uint256(judge.outcome(disputeId).ruling), uint256(IStepJudge.Ruling.None), "ruling");
        market.resolve(offer);
        stateIs(id, IJobMarket.State.Voided);
    }

    function test_drawPanel_twoMaySit_seatsOne() public {
        for (uint256 i = 0; i < 3; ++i) {
            depart(verifiers[i]);
        }
        later(1);
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        address[] memory panel = judged(disputeId, [2, 0, 0]);
        same(panel.length, 1, "panel");
        same(uint256(judge.outcome(disputeId).ruling), uint256(IStepJudge.Ruling.WorkerWrong), "ruling");
    }

    function test_close_silentMember_losesTwoPanelFees() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        uint256 before = free(mallory);
        address[] memory panel = judged(disputeId, [2, 0, 2]);
        same(locked(panel[1]), params.verifierBond - 2 * params.panelFee, "member's locked");
        same(free(mallory), before + params.panelFee, "caller's half");
        same(judge.outcome(disputeId).majority.length, 2, "majority");
        booksBalance();
    }

    function test_close_tie_opensAnotherRound() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        judged(disputeId, [1, 2, 5]);
        same(judge.caseOf(disputeId).round, 1, "round");
        same(uint256(judge.caseOf(disputeId).phase), uint256(IPanelJudge.Phase.Drawing), "phase");
        judged(disputeId, [1, 1, 2]);
        same(uint256(judge.outcome(disputeId).ruling), uint256(IStepJudge.Ruling.WorkerRight), "ruling");
    }

    function test_close_nobodyDrew_losesTheRound() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectPartialRevert(PanelJudge_TooEarly.selector);
            judge.close(disputeId);
            later(params.maxWindowS + 1);
            vm.expectPartialRevert(PanelJudge_WindowClosed.selector);
            judge.drawPanel(disputeId);
            judge.close(disputeId);
        }
        same(uint256(judge.outcome(disputeId).ruling), uint256(IStepJudge.Ruling.None), "ruling");
    }

    function test_close_beforeReveal_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        later(12);
        judge.drawPanel(disputeId);
        vm.expectPartialRevert(PanelJudge_TooEarly.selector);
        judge.close(disputeId);
    }

    function test_sealVote_stranger_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        (, bytes32 disputeId) = challenged(offer, 2, "mine");
        later(12);
        judge.drawPanel(disputeId);
        vm.expectPartialRevert(PanelJudge_NotOnPanel.selector);
        vm.prank(mallory);
        judge.sealVote(disputeId, "seal");
    }

    function test_open_byAnother_reverts() public {
        IStepJudge.Claim memory claim;
        vm.expectPartialRevert(PanelJudge_OnlyMarket.selector);
        judge.open(claim);
    }

    function test_penalizePanelist_byAnother_reverts() public {
        vm.expectPartialRevert(JobMarket_OnlyJudge.selector);
        market.penalizePanelist(CLASS, verifiers[0], "dispute", mallory);
    }

    // --- worlds ---

    function depart(address verifier) private {
        vm.prank(verifier);
        market.requestVerifierExit(CLASS, secretOf(verifier));
    }

    function revealedWithSalt(uint128 salt) private returns (IJobMarket.Offer memory offer, address verifier) {
        offer = standardOffer();
        bytes32 id = drawn(offer);
        verifier = market.drawnVerifiers(offer)[0];
        vm.prank(verifier);
        market.sealVerdict(offer, Tags.verdictSeal(id, 0, verifier, 1, 0, salt));
        later(offer.verdictWindowS + 1);
        vm.prank(verifier);
        market.revealVerdict(offer, 1, 0, salt);
    }

    /// @dev Demands the first segment of window 0 that may be demanded.
    function demandAny(IJobMarket.Offer memory offer) private returns (uint256 segment) {
        for (; segment < offer.segmentsPerWindow; ++segment) {
            vm.prank(carol);
            (bool done,) = address(market).call(abi.encodeCall(market.demand, (offer, uint32(segment))));
            if (done) return segment;
        }
        return NOTHING;
    }

    /// @dev A verifier says match; then the panel refutes a segment that is (or is not) in its sample.
    function slashedAfterMatch(bool sampled)
        private
        returns (IJobMarket.Offer memory offer, address verifier, uint256 segment)
    {
        offer = standardOffer();
        bytes32 id = drawn(offer);
        verifier = market.drawnVerifiers(offer)[0];
        sealAs(offer, verifier, 1, 0);
        later(offer.verdictWindowS + 1);
        revealAs(offer, verifier, 1, 0);
        uint256[] memory places = market.sample(offer, 0, verifier);
        segment = places[0];
        if (!sampled) {
            segment = 0;
            while (segment == places[0] || segment == places[1]) ++segment;
        }
        bytes32 disputeId = challengeAs(carol, offer, id, opened(offer, id, segment), "mine");
        judged(disputeId, [2, 2, 2]);
        market.resolve(offer);
    }

    /// @dev A window whose segment `index` starts somewhere else than it should.
    function brokenAt(IJobMarket.Offer memory offer, bytes32 id, uint256 index)
        private
        view
        returns (bytes32 root, IJobMarket.Opening memory before, IJobMarket.Opening memory here)
    {
        uint256 window = index / offer.segmentsPerWindow;
        uint256 place = index % offer.segmentsPerWindow;
        bytes32[] memory leaves = honestLeaves(offer, id, window);
        bytes32 output = stateRoot(offer, index + 1);
        leaves[place] = Tags.leaf(address(market), id, bob, index, "elsewhere", output);
        root = rootOf(leaves);
        here = IJobMarket.Opening(uint32(index), "elsewhere", output, proofOf(leaves, place));
        if (index == 0) return (root, here, here);
        before = opened(offer, id, index - 1);
        if (place != 0) before.proof = proofOf(leaves, place - 1);
    }
}
