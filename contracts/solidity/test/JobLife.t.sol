// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import "../libraries/Errors.sol";
import {JobSlot} from "../libraries/JobSlot.sol";
import {Tags} from "../libraries/Tags.sol";
import {Market} from "./Market.sol";

/// @notice Rows 1 to 7 and 9 of the table; the plan is JobLife.tree.
contract JobLifeTest is Market {
    /// @dev Most that a transaction may use on Ethereum (EIP-7825).
    uint256 private constant TRANSACTION_GAS = 16_777_216;

    // --- accept ---

    function test_accept_signedOffer_locksEscrowAndBond() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 clientFree, uint256 workerFree) = (free(alice), free(bob));
        bytes32 id = accepted(offer);
        stateIs(id, IJobMarket.State.Accepted);
        uint256 escrow = 105 * DOLLAR; // 101 and 2 windows of 2 verdicts
        same(locked(alice), escrow, "client's locked");
        same(free(alice), clientFree - escrow, "client's free");
        same(locked(bob), uint256(offer.bond) + params.workerBond, "worker's locked");
        same(free(bob), workerFree - offer.bond, "worker's free");
        same(market.escrowLeft(offer), escrow, "escrow left");
        same(market.job(id).deadline, block.timestamp + offer.commitWindowS, "deadline");
        booksBalance();
    }

    function test_accept_twice_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        bytes memory signature = signed(offer);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_accept_byAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory signature = signed(offer);
        vm.expectPartialRevert(JobMarket_WrongCaller.selector);
        vm.prank(mallory);
        market.accept(offer, signature);
    }

    function test_accept_afterExpiry_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory signature = signed(offer);
        vm.warp(uint256(offer.expiresAt) + 1);
        vm.expectPartialRevert(JobMarket_OfferExpired.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_accept_changedTerm_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory signature = signed(offer);
        offer.price -= 1;
        vm.expectPartialRevert(JobMarket_WrongSigner.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_accept_shortSignature_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        vm.expectRevert();
        vm.prank(alice);
        market.accept(offer, new bytes(64));
    }

    function test_accept_workerLeaving_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory signature = signed(offer);
        vm.prank(bob);
        market.requestWorkerExit();
        vm.expectPartialRevert(Registry_Leaving.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_accept_clientTooPoor_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        offer.price = uint96(WEALTH);
        bytes memory signature = signed(offer);
        vm.expectPartialRevert(Ledger_InsufficientFree.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_accept_eachTermOutOfBounds_reverts() public {
        for (uint256 i = 0; i < 15; ++i) {
            IJobMarket.Offer memory offer = standardOffer();
            if (i == 0) offer.segmentCount = 0;
            if (i == 1) offer.segmentsPerWindow = 0;
            if (i == 2) offer.segmentsPerWindow = 65_537;
            if (i == 3) (offer.segmentCount, offer.segmentsPerWindow) = (65_536, 1);
            if (i == 4) offer.verifierCount = 8;
            if (i == 5) offer.sampleCount = 1025;
            if (i == 6) offer.bond = params.minJobBond - 1;
            if (i == 7) offer.forfeit = offer.bond + 1;
            if (i == 8) (offer.price, offer.forfeit) = (1, 2);
            if (i == 9) offer.commitWindowS = 0;
            if (i == 10) offer.commitWindowS = params.maxWindowS + 1;
            if (i == 11) offer.revealWindowS = 0;
            if (i == 12) offer.verdictWindowS = params.minVerdictWindowS - 1;
            if (i == 13) offer.challengeWindowS = 2 * offer.verdictWindowS;
            if (i == 14) offer.challengeWindowS = params.maxWindowS + 1;
            bytes memory signature = signed(offer);
            vm.expectPartialRevert(JobMarket_TermOutOfBounds.selector);
            vm.prank(alice);
            market.accept(offer, signature);
        }
    }

    /// @dev Words are hashed and logged as they stand, so one too large for its field must not get through.
    function test_accept_dirtyWord_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory call = abi.encodeCall(market.accept, (offer, new bytes(65)));
        for (uint256 field = 4; field < 20; ++field) {
            bytes memory dirty = bytes.concat(call);
            dirty[4 + 32 * field] = 0x80;
            bytes32 digest = digestOf(dirty);
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(WORKER_KEY, digest);
            bytes memory signature = abi.encodePacked(r, s, v);
            for (uint256 i = 0; i < 65; ++i) {
                dirty[4 + 32 * 22 + i] = signature[i];
            }
            vm.prank(alice);
            (bool done, bytes memory why) = address(market).call(dirty);
            isTrue(!done && why.length == 0, string.concat("field ", vm.toString(field), " got through"));
        }
    }

    function test_accept_selfDealing_balances() public {
        IJobMarket.Offer memory offer = standardOffer();
        offer.client = bob;
        uint256 before = free(bob) + locked(bob);
        bytes32 id = drawn(offer);
        settleWindow(offer, id);
        commitWindow(offer, id);
        drawWindow(offer, id);
        settleWindow(offer, id);
        stateIs(id, IJobMarket.State.Completed);
        same(free(bob) + locked(bob) + free(treasury), before, "money");
        lockedIsBondsOnly();
    }

    function test_accept_withPermitInOneTransaction_works() public {
        (address dave, uint256 key) = (vm.addr(0xDA4E), 0xDA4E);
        dollar.mint(dave, 200 * DOLLAR);
        IJobMarket.Offer memory offer = standardOffer();
        offer.client = dave;
        bytes32 permit = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                dave,
                address(market),
                200 * DOLLAR,
                0,
                type(uint256).max
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", dollar.DOMAIN_SEPARATOR(), permit)));
        // Somebody else submits the permit first: that must not matter.
        dollar.permit(dave, address(market), 200 * DOLLAR, type(uint256).max, v, r, s);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(market.depositWithPermit, (uint128(200 * DOLLAR), type(uint256).max, v, r, s));
        calls[1] = abi.encodeCall(market.accept, (offer, signed(offer)));
        vm.prank(dave);
        market.multicall(calls);
        stateIs(market.jobId(offer), IJobMarket.State.Accepted);
        same(free(dave), 95 * DOLLAR, "free");
    }

    // --- revokeOffer ---

    function test_revokeOffer_byWorker_blocksAcceptance() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes memory signature = signed(offer);
        vm.prank(bob);
        market.revokeOffer(offer);
        stateIs(market.jobId(offer), IJobMarket.State.Cancelled);
        same(market.escrowLeft(offer), 0, "escrow left");
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        vm.prank(alice);
        market.accept(offer, signature);
    }

    function test_revokeOffer_byAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        vm.expectPartialRevert(JobMarket_WrongCaller.selector);
        vm.prank(alice);
        market.revokeOffer(offer);
    }

    function test_revokeOffer_acceptedJob_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        vm.prank(bob);
        market.revokeOffer(offer);
    }

    // --- commit ---

    function test_commit_inTime_storesRoot() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = accepted(offer);
        vm.warp(market.job(id).deadline); // the last moment counts
        commitWindow(offer, id);
        stateIs(id, IJobMarket.State.Committed);
        same(market.windowRoot(id, 0), honestRoot(offer, id, 0), "root");
        same(market.job(id).seed, JobSlot.beforeDraw(block.number, VERIFIERS), "block and pool of the commitment");
    }

    function test_commit_late_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = accepted(offer);
        afterDeadline(id);
        vm.expectPartialRevert(JobMarket_WindowClosed.selector);
        vm.prank(bob);
        market.commit(offer, "root");
    }

    function test_commit_byAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_WrongCaller.selector);
        vm.prank(alice);
        market.commit(offer, "root");
    }

    function test_commit_zeroRoot_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_ZeroRoot.selector);
        vm.prank(bob);
        market.commit(offer, 0);
    }

    function test_commit_twice_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        committed(offer);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        vm.prank(bob);
        market.commit(offer, "another");
    }

    // --- draw ---

    function test_draw_withSecret_fixesSeedAndPool() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        stateIs(id, IJobMarket.State.Drawn);
        IJobMarket.Job memory job = market.job(id);
        bytes32 root = market.windowRoot(id, 0);
        same(job.seed, Tags.seed(id, 0, root, secretFor(0), bytes32(block.prevrandao)), "seed");
        same(job.poolSize, VERIFIERS, "pool");
        same(job.drawnAt, block.timestamp, "drawn at");
        same(market.drawnVerifiers(offer).length, 2, "drawn verifiers");
    }

    function test_draw_sameBlock_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        committed(offer);
        vm.expectPartialRevert(JobMarket_SameBlock.selector);
        market.draw(offer, secretFor(0));
    }

    function test_draw_wrongSecret_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        committed(offer);
        later(12);
        vm.expectPartialRevert(JobMarket_WrongSecret.selector);
        market.draw(offer, secretFor(1));
    }

    function test_draw_noSecretBeforeDeadline_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        committed(offer);
        later(12);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.draw(offer, 0);
    }

    function test_draw_noSecretPastDeadline_works() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = committed(offer);
        afterDeadline(id);
        vm.prank(mallory);
        market.draw(offer, 0);
        stateIs(id, IJobMarket.State.Drawn);
    }

    function test_draw_poolGrownAfterCommitment_countsAsItWas() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = committed(offer);
        later(12);
        // Who sees the secret on its way could try one pool after another until the draw is as it likes.
        enlist(mallory);
        market.draw(offer, secretFor(0));
        same(market.job(id).poolSize, VERIFIERS, "pool");
    }

    function test_draw_lastOfManyWindows_fitsATransaction() public {
        IJobMarket.Offer memory offer = standardOffer();
        (offer.segmentCount, offer.segmentsPerWindow, offer.verifierCount) = (type(uint16).max, 1, 0);
        bytes32 id = accepted(offer);
        skipTo(id, offer.segmentCount - 1);
        vm.prank(bob);
        market.commit(offer, "root");
        later(12);
        vm.expectPartialRevert(JobMarket_WrongSecret.selector);
        market.draw{gas: TRANSACTION_GAS}(offer, "no secret of this chain");
    }

    // --- settle ---

    function test_settle_firstWindow_paysItsPartLessFee() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        uint256 before = free(bob);
        settleWindow(offer, id);
        stateIs(id, IJobMarket.State.Accepted);
        uint256 due = uint256(offer.price) / 2;
        same(free(treasury), due / 100, "fee");
        same(free(bob), before + due - due / 100, "worker's free");
        same(market.job(id).window, 1, "window");
        booksBalance();
    }

    function test_settle_lastWindow_returnsTheRest() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 clientFree, uint256 workerFree) = (free(alice), free(bob));
        bytes32 id = drawn(offer);
        settleWindow(offer, id);
        commitWindow(offer, id);
        drawWindow(offer, id);
        settleWindow(offer, id);
        stateIs(id, IJobMarket.State.Completed);
        same(market.job(id).window, 2, "windows paid");
        same(free(alice), clientFree - offer.price, "client's free");
        same(free(bob) + free(treasury), workerFree + offer.price, "worker's and treasury's free");
        lockedIsBondsOnly();
    }

    function test_settle_beforeDeadline_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = drawn(offer);
        vm.warp(market.job(id).deadline);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.settle(offer);
    }

    function test_settle_notDrawn_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        bytes32 id = committed(offer);
        afterDeadline(id);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        market.settle(offer);
    }

    function testFuzz_settle_anySplit_paysThePriceExactly(uint256 price, uint256 segments, uint256 perWindow) public {
        IJobMarket.Offer memory offer = standardOffer();
        offer.segmentCount = uint32(pick(segments, 1, 12));
        offer.segmentsPerWindow = uint32(pick(perWindow, 1, 12));
        offer.price = uint96(pick(price, 0, 1000 * DOLLAR));
        offer.forfeit = 0;
        (uint256 clientBefore, uint256 workerBefore) = (free(alice), free(bob) + free(treasury));
        bytes32 id = accepted(offer);
        while (market.job(id).state == IJobMarket.State.Accepted) {
            vm.prank(bob);
            market.commit(offer, "root");
            afterDeadline(id);
            market.draw(offer, 0);
            settleWindow(offer, id);
        }
        stateIs(id, IJobMarket.State.Completed);
        same(free(alice), clientBefore - offer.price, "client's free");
        same(free(bob) + free(treasury), workerBefore + offer.price, "paid");
        lockedIsBondsOnly();
    }

    // --- cancel, resign, expire ---

    function test_cancel_byClient_paysForfeit() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 clientFree, uint256 workerFree) = (free(alice), free(bob));
        bytes32 id = accepted(offer);
        vm.prank(alice);
        market.cancel(offer);
        stateIs(id, IJobMarket.State.Cancelled);
        same(free(alice), clientFree - offer.forfeit, "client's free");
        same(free(bob), workerFree + offer.forfeit, "worker's free");
        lockedIsBondsOnly();
    }

    function test_cancel_littleEscrowLeft_paysWhatIsLeft() public {
        IJobMarket.Offer memory offer = standardOffer();
        (offer.bond, offer.forfeit, offer.verifierCount) = (offer.price, offer.price, 0);
        uint256 clientFree = free(alice);
        bytes32 id = drawn(offer);
        settleWindow(offer, id);
        isTrue(market.escrowLeft(offer) < offer.forfeit, "the forfeit must be more than is left");
        vm.prank(alice);
        market.cancel(offer);
        same(free(alice), clientFree - offer.price, "client's free");
        lockedIsBondsOnly();
    }

    function test_cancel_byAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_WrongCaller.selector);
        vm.prank(bob);
        market.cancel(offer);
    }

    function test_cancel_committed_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        committed(offer);
        vm.expectPartialRevert(JobMarket_WrongState.selector);
        vm.prank(alice);
        market.cancel(offer);
    }

    function test_resign_byWorker_paysForfeitFromBond() public {
        IJobMarket.Offer memory offer = standardOffer();
        (uint256 clientFree, uint256 workerFree) = (free(alice), free(bob));
        bytes32 id = accepted(offer);
        vm.prank(bob);
        market.resign(offer);
        stateIs(id, IJobMarket.State.Cancelled);
        same(free(alice), clientFree + offer.forfeit, "client's free");
        same(free(bob), workerFree - offer.forfeit, "worker's free");
        lockedIsBondsOnly();
    }

    function test_resign_byAnother_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_WrongCaller.selector);
        vm.prank(alice);
        market.resign(offer);
    }

    function test_expire_late_paysForfeitFromBond() public {
        IJobMarket.Offer memory offer = standardOffer();
        uint256 clientFree = free(alice);
        bytes32 id = accepted(offer);
        afterDeadline(id);
        vm.prank(mallory);
        market.expire(offer);
        stateIs(id, IJobMarket.State.Expired);
        same(free(alice), clientFree + offer.forfeit, "client's free");
        lockedIsBondsOnly();
    }

    function test_expire_inTime_reverts() public {
        IJobMarket.Offer memory offer = standardOffer();
        accepted(offer);
        vm.expectPartialRevert(JobMarket_TooEarly.selector);
        market.expire(offer);
    }

    /// @dev Pretends that so many windows were paid, by writing over the job's word.
    function skipTo(bytes32 id, uint256 window) private {
        for (uint256 slot = 0; slot < 16; ++slot) {
            bytes32 place = keccak256(abi.encode(id, slot));
            uint256 word = uint256(vm.load(address(market), place));
            if (word != 0) vm.store(address(market), place, bytes32(word | window << 8));
        }
        same(market.job(id).window, window, "window");
    }

    /// @dev The digest of the offer's words in a call, as a worker that plays along would sign them.
    function digestOf(bytes memory call) private view returns (bytes32) {
        bytes memory words = new bytes(640);
        for (uint256 i = 0; i < 640; ++i) {
            words[i] = call[4 + i];
        }
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tolsey"),
                keccak256("1"),
                block.chainid,
                address(market)
            )
        );
        bytes32 structHash = keccak256(bytes.concat(market.OFFER_TYPEHASH(), words));
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
