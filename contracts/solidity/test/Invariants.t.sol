// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {IPanelJudge} from "../interfaces/IPanelJudge.sol";
import {Tags} from "../libraries/Tags.sol";
import {Market} from "./Market.sol";

/// @notice Does whatever anybody may do, in any order, and keeps its own books (ghost sums) beside the market's.
contract Handler is Market {
    uint256 internal constant JOBS = 4;
    uint256 internal constant EXIT_GAS = 1_000_000;

    IJobMarket.Offer[] internal offers;
    bytes32[] public ids;
    mapping(bytes32 id => IJobMarket.State) internal last;
    mapping(bytes32 id => uint256) internal lastWindow;
    uint256 public outside; // tokens that left by withdrawal
    uint256 public backwards; // state changes that no row of the table has
    uint256 public worstExitGas;
    uint256 public honestSlashes; // honest worker that answers every demand, slashed without the judge
    mapping(bytes32 id => mapping(uint256 segment => bool)) internal answers;
    mapping(bytes32 id => bool) public wronged; // slashed or expired through its own fault or the judge's word

    constructor() {
        setUp();
    }

    // --- moves ---

    function accept(uint256 seed) external {
        if (offers.length == JOBS) return;
        IJobMarket.Offer memory offer = standardOffer();
        offer.nonce = uint64(100 + offers.length);
        offer.verifierCount = uint8(seed % 4);
        offer.segmentCount = uint32(pick(seed >> 8, 1, 9));
        offer.segmentsPerWindow = uint32(pick(seed >> 16, 1, 4));
        offer.price = uint96(pick(seed >> 32, 5 * DOLLAR, 200 * DOLLAR));
        bytes32 id = accepted(offer);
        offers.push(offer);
        ids.push(id);
        look();
    }

    function commit(uint256 which, bool late) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Accepted);
        if (!any) return;
        if (late) {
            afterDeadline(id);
            exits(abi.encodeCall(market.expire, (offer)));
        } else if (block.timestamp <= market.job(id).deadline) {
            commitWindow(offer, id);
        }
        look();
    }

    function giveUp(uint256 which, bool client) external {
        (bool any, IJobMarket.Offer memory offer,) = at(which, IJobMarket.State.Accepted);
        if (!any || which % 8 != 0) return;
        vm.prank(client ? alice : bob);
        client ? market.cancel(offer) : market.resign(offer);
        look();
    }

    function draw(uint256 which) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Committed);
        if (!any) return;
        afterDeadline(id);
        exits(abi.encodeCall(market.draw, (offer, bytes32(0))));
        look();
    }

    function verdicts(uint256 which, uint8 kind, bool reveal) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Drawn);
        if (!any || block.timestamp > uint256(market.job(id).drawnAt) + offer.verdictWindowS) return;
        address[] memory drawn_ = market.drawnVerifiers(offer);
        kind = uint8(pick(kind, 1, 4));
        for (uint256 i = 0; i < drawn_.length; ++i) {
            if (market.verdict(id, market.job(id).window, drawn_[i]).seal != 0) return;
            sealAs(offer, drawn_[i], kind, 0);
        }
        later(offer.verdictWindowS + 1);
        if (!reveal) return;
        for (uint256 i = 0; i < drawn_.length; ++i) {
            uint256 end = uint256(market.job(id).drawnAt) + 2 * uint256(offer.verdictWindowS);
            if (block.timestamp <= end) revealAs(offer, drawn_[i], kind, 0);
        }
        look();
    }

    function punish(uint256 which, uint256 who) external {
        if (offers.length == 0) return;
        IJobMarket.Offer memory offer = offers[which % offers.length];
        address verifier = verifiers[who % VERIFIERS];
        bytes memory call = who % 2 == 0
            ? abi.encodeCall(market.penalizeSilence, (offer, verifier))
            : abi.encodeCall(market.penalizeFalseMatch, (offer, verifier));
        vm.prank(mallory);
        (bool done,) = address(market).call(call);
        done; // most are refused, and that is the point
    }

    function settle(uint256 which) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Drawn);
        if (!any) return;
        afterDeadline(id);
        exits(abi.encodeCall(market.settle, (offer)));
        look();
    }

    function demand(uint256 which, bool answered) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Drawn);
        if (!any || block.timestamp > market.job(id).deadline) return;
        (bool some, uint256 index) = unanswered(offer, id);
        if (!some) return;
        vm.prank(carol);
        market.demand(offer, uint32(index));
        look();
        if (answered) {
            answers[id][index] = true;
            market.answer(offer, opened(offer, id, index));
        } else {
            afterDeadline(id);
            wronged[id] = true;
            exits(abi.encodeCall(market.resolve, (offer)));
        }
        look();
    }

    function challenge(uint256 which, uint256 votes, address who) external {
        (bool any, IJobMarket.Offer memory offer, bytes32 id) = at(which, IJobMarket.State.Drawn);
        if (!any || uint256(market.job(id).deadline) < block.timestamp + 12) return;
        uint256 index = uint256(market.job(id).window) * offer.segmentsPerWindow;
        if (judge.caseOf(Tags.disputeId(id, index)).phase != IPanelJudge.Phase.None) return;
        who = votes % 3 == 0 ? bob : carol; // the worker may challenge itself
        bytes32 disputeId = challengeAs(who, offer, id, opened(offer, id, index), keccak256(abi.encode(votes)));
        look();
        for (uint256 round = 0; round < 3; ++round) {
            if (judge.caseOf(disputeId).phase != IPanelJudge.Phase.Drawing) break;
            judged(disputeId, [uint8(votes >> 8) % 6, uint8(votes >> 16) % 6, uint8(votes >> 24) % 6]);
        }
        if (judge.caseOf(disputeId).phase != IPanelJudge.Phase.Closed) return;
        wronged[id] = true;
        exits(abi.encodeCall(market.resolve, (offer)));
        look();
    }

    function wait(uint256 seconds_) external {
        later(pick(seconds_, 1, 1 days));
    }

    function cashOut(uint256 who, uint256 amount) external {
        address[4] memory people = [alice, bob, carol, mallory];
        address person = people[who % 4];
        uint256 part = amount % (free(person) / 8 + 1);
        vm.prank(person);
        market.withdraw(uint128(part), person);
        outside += part;
    }

    // --- after each run: every live job has a way out for anybody ---

    function driveOut() external {
        for (uint256 i = 0; i < offers.length; ++i) {
            IJobMarket.Offer memory offer = offers[i];
            bytes32 id = ids[i];
            for (uint256 moves = 0; moves < 100 && isLive(id); ++moves) {
                IJobMarket.State state = market.job(id).state;
                afterDeadline(id);
                if (state == IJobMarket.State.Accepted) exits(abi.encodeCall(market.expire, (offer)));
                else if (state == IJobMarket.State.Committed) exits(abi.encodeCall(market.draw, (offer, bytes32(0))));
                else if (state == IJobMarket.State.Drawn) exits(abi.encodeCall(market.settle, (offer)));
                else exits(abi.encodeCall(market.resolve, (offer)));
            }
            isTrue(!isLive(id), "a job is stuck");
        }
        look();
    }

    function everybodyWithdraws() external {
        for (uint256 i = 0; i < 5 + VERIFIERS; ++i) {
            address[5] memory people = [alice, bob, carol, mallory, treasury];
            address person = i < 5 ? people[i] : verifiers[i - 5];
            uint256 all = free(person);
            vm.prank(person);
            market.withdraw(uint128(all), person);
            outside += all;
        }
    }

    // --- what must hold ---

    function totals() external view returns (uint256 accounts, uint256 balance, uint256 allLocked, uint256 expected) {
        accounts = sumOfAccounts();
        balance = dollar.balanceOf(address(market));
        allLocked = locked(alice) + locked(bob) + locked(carol) + locked(mallory) + locked(treasury) + locked(BURN);
        expected = params.workerBond;
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            allLocked += locked(verifiers[i]);
            expected += market.verifier(CLASS, verifiers[i]).bond;
        }
        for (uint256 i = 0; i < offers.length; ++i) {
            if (!isLive(ids[i])) continue;
            expected += market.escrowLeft(offers[i]) + offers[i].bond;
            IJobMarket.State state = market.job(ids[i]).state;
            if (state == IJobMarket.State.Demanded || state == IJobMarket.State.Challenged) {
                expected += params.challengeBond;
            }
        }
    }

    function funded() external pure returns (uint256) {
        return (4 + VERIFIERS) * WEALTH;
    }

    function isLive(bytes32 id) public view returns (bool) {
        IJobMarket.State state = market.job(id).state;
        return state != IJobMarket.State.None && state < IJobMarket.State.Completed;
    }

    /// @dev No final state is left, no window is lost, and a job that did no wrong was not slashed.
    function look() internal {
        for (uint256 i = 0; i < ids.length; ++i) {
            IJobMarket.Job memory j = market.job(ids[i]);
            if (last[ids[i]] >= IJobMarket.State.Completed && j.state != last[ids[i]]) ++backwards;
            if (j.window < lastWindow[ids[i]]) ++backwards;
            if (j.state == IJobMarket.State.Slashed && !wronged[ids[i]]) ++honestSlashes;
            (last[ids[i]], lastWindow[ids[i]]) = (j.state, j.window);
        }
    }

    /// @dev A call by a stranger that must work, and its gas.
    function exits(bytes memory call) internal {
        vm.prank(mallory);
        (bool done, bytes memory why) = address(market).call(call);
        if (!done) {
            assembly ("memory-safe") {
                revert(add(why, 32), mload(why))
            }
        }
        uint256 used = vm.lastCallGas().gasTotalUsed;
        if (used > worstExitGas) worstExitGas = used;
    }

    /// @dev The first segment of the window in work that nobody answered for yet: each may be demanded once.
    function unanswered(IJobMarket.Offer memory offer, bytes32 id) private view returns (bool some, uint256 index) {
        index = uint256(market.job(id).window) * offer.segmentsPerWindow;
        uint256 end = index + offer.segmentsPerWindow;
        if (end > offer.segmentCount) end = offer.segmentCount;
        while (index < end && answers[id][index]) ++index;
        return (index < end, index);
    }

    function at(uint256 which, IJobMarket.State state)
        internal
        view
        returns (bool any, IJobMarket.Offer memory offer, bytes32 id)
    {
        for (uint256 i = 0; i < offers.length; ++i) {
            uint256 k = (which % JOBS + i) % offers.length;
            if (market.job(ids[k]).state == state) return (true, offers[k], ids[k]);
        }
    }
}

/// @notice The eight invariants; a handler moves at random in between.
contract InvariantsTest {
    uint256 private constant EXIT_GAS = 1_000_000;

    Handler private handler;

    function setUp() public {
        handler = new Handler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory moves = new bytes4[](11);
        moves[0] = Handler.accept.selector;
        moves[1] = Handler.commit.selector;
        moves[2] = Handler.draw.selector;
        moves[3] = Handler.settle.selector;
        moves[4] = Handler.verdicts.selector;
        moves[5] = Handler.punish.selector;
        moves[6] = Handler.demand.selector;
        moves[7] = Handler.challenge.selector;
        moves[8] = Handler.giveUp.selector;
        moves[9] = Handler.wait.selector;
        moves[10] = Handler.cashOut.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), moves);
    }

    /// @notice 1 accounts = tokens; 2 locked = live jobs and bonds; 3 in = out + held.
    function invariant_1to3_moneyIsConserved() public view {
        (uint256 accounts, uint256 balance, uint256 allLocked, uint256 expected) = handler.totals();
        require(accounts == balance, "1: accounts differ from tokens");
        require(allLocked == expected, "2: locked differs from live jobs and bonds");
        require(balance + handler.outside() == handler.funded(), "3: money made or lost");
    }

    /// @notice 5 final is final, windows only grow; 6 whoever does no wrong is not slashed.
    function invariant_5and6_noWayBackAndNoFalseSlash() public view {
        require(handler.backwards() == 0, "5: a job went back");
        require(handler.honestSlashes() == 0, "6: an honest worker was slashed");
    }

    /// @notice 4 every job ends; 7 everybody can withdraw; 8 exits cost a bounded amount.
    function afterInvariant() public {
        handler.driveOut();
        handler.everybodyWithdraws();
        (uint256 accounts, uint256 balance, uint256 allLocked, uint256 expected) = handler.totals();
        require(accounts == balance && allLocked == expected, "books do not balance at the end");
        require(handler.worstExitGas() < EXIT_GAS, "8: an exit costs too much");
    }
}
