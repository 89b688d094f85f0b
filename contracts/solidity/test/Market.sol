// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IBeacon} from "../interfaces/IBeacon.sol";
import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {ILedger} from "../interfaces/ILedger.sol";
import {IPanelJudge} from "../interfaces/IPanelJudge.sol";
import {IStepJudge} from "../interfaces/IStepJudge.sol";
import {JobMarket} from "../JobMarket.sol";
import {MerkleLib} from "../libraries/MerkleLib.sol";
import {Tags} from "../libraries/Tags.sol";
import {PanelJudge} from "../PanelJudge.sol";
import {PrevrandaoBeacon} from "../PrevrandaoBeacon.sol";
import {TestDollar} from "../TestDollar.sol";
import {Vm} from "./Vm.sol";

/// @notice The world of the tests: a deployed market, people with names and money, and one honest job.
/// What a test does not say is as in `standardOffer`: 6 segments in windows of 4, two drawn verifiers.
abstract contract Market {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant WORKER_KEY = 0xB0B;
    uint256 internal constant VERIFIERS = 5;
    uint256 internal constant DOLLAR = 1e6;
    uint256 internal constant WEALTH = 10_000 * DOLLAR;
    bytes32 internal constant CLASS = keccak256("class");
    bytes32 internal constant CLIENT_SECRET = keccak256("client secret");
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    address internal alice = someone("alice"); // client
    address internal bob; // worker
    address internal carol = someone("carol"); // challenger
    address internal mallory = someone("mallory"); // stranger
    address internal treasury = someone("treasury");
    address[] internal verifiers;

    TestDollar internal dollar;
    JobMarket internal market;
    PanelJudge internal judge;
    IJobMarket.Params internal params;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        vm.prevrandao("beacon");
        bob = vm.addr(WORKER_KEY);
        dollar = new TestDollar();
        deploy(IERC20(address(dollar)), feeBps());
        fund(alice);
        fund(bob);
        fund(carol);
        fund(mallory);
        register(bob);
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            address verifier = someone(string.concat("verifier ", vm.toString(i)));
            verifiers.push(verifier);
            fund(verifier);
            enlist(verifier);
        }
        later(1);
    }

    function feeBps() internal pure virtual returns (uint16) {
        return 100;
    }

    // --- deployment ---

    function deploy(IERC20 token, uint16 fee) internal {
        params = IJobMarket.Params({
            token: token,
            treasury: treasury,
            feeBps: fee,
            workerBond: uint96(10 * DOLLAR),
            verifierBond: uint96(20 * DOLLAR),
            challengeBond: uint96(12 * DOLLAR),
            panelFee: uint96(2 * DOLLAR),
            minJobBond: uint96(12 * DOLLAR),
            unbondingS: 60 days,
            maxWindowS: 7 days,
            minVerdictWindowS: 1 minutes,
            panelWindowS: 1 hours,
            beacon: IBeacon(address(new PrevrandaoBeacon())),
            judge: IStepJudge(address(0))
        });
        params.judge = IStepJudge(vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1));
        market = new JobMarket(params);
        judge = new PanelJudge(address(market));
        require(address(judge) == address(params.judge), "judge is not where the market looks for it");
    }

    // --- people ---

    function fund(address who) internal {
        dollar.mint(who, WEALTH);
        vm.prank(who);
        dollar.approve(address(market), type(uint256).max);
        vm.prank(who);
        market.deposit(uint128(WEALTH));
    }

    function register(address who) internal {
        vm.prank(who);
        market.registerWorker("peer", new bytes(64));
    }

    function enlist(address who) internal {
        vm.prank(who);
        market.registerVerifier(CLASS, Tags.sealOf(secretOf(who)), "peer", new bytes(64));
    }

    function someone(string memory name) internal pure returns (address) {
        return address(uint160(uint256(keccak256(bytes(name)))));
    }

    function secretOf(address verifier) internal pure returns (bytes32) {
        return keccak256(abi.encode("secret", verifier));
    }

    function free(address who) internal view returns (uint256) {
        return market.account(who).free;
    }

    function locked(address who) internal view returns (uint256) {
        return market.account(who).locked;
    }

    // --- time ---

    /// @dev Some seconds and one block later.
    function later(uint256 seconds_) internal {
        vm.warp(block.timestamp + seconds_);
        vm.roll(block.number + 1);
        vm.prevrandao(keccak256(abi.encode("beacon", block.number)));
    }

    function afterDeadline(bytes32 id) internal {
        vm.warp(uint256(market.job(id).deadline) + 1);
        vm.roll(block.number + 1);
    }

    // --- offers ---

    function standardOffer() internal view returns (IJobMarket.Offer memory) {
        return IJobMarket.Offer({
            specHash: keccak256("spec"),
            classId: CLASS,
            initialRoot: keccak256("initial state"),
            clientSeal: Tags.sealOf(Tags.sealOf(CLIENT_SECRET)),
            client: alice,
            worker: bob,
            price: uint96(101 * DOLLAR),
            bond: uint96(50 * DOLLAR),
            forfeit: uint96(5 * DOLLAR),
            verdictFee: uint96(1 * DOLLAR),
            segmentCount: 6,
            segmentsPerWindow: 4,
            verifierCount: 2,
            sampleCount: 2,
            commitWindowS: 1 days,
            revealWindowS: 1 hours,
            verdictWindowS: 2 hours,
            challengeWindowS: 12 hours,
            nonce: 7,
            expiresAt: uint40(block.timestamp + 1 days)
        });
    }

    function signed(IJobMarket.Offer memory offer) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(WORKER_KEY, market.jobId(offer));
        return abi.encodePacked(r, s, v);
    }

    /// @dev H^(W-1-w)(secret) of the standard two windows.
    function secretFor(uint256 window) internal pure returns (bytes32) {
        return window == 0 ? Tags.sealOf(CLIENT_SECRET) : CLIENT_SECRET;
    }

    // --- the way of an honest job, as far as a test wants it ---

    function accepted(IJobMarket.Offer memory offer) internal returns (bytes32 id) {
        bytes memory signature = signed(offer);
        vm.prank(offer.client);
        id = market.accept(offer, signature);
    }

    function committed(IJobMarket.Offer memory offer) internal returns (bytes32 id) {
        id = accepted(offer);
        commitWindow(offer, id);
    }

    function drawn(IJobMarket.Offer memory offer) internal returns (bytes32 id) {
        id = committed(offer);
        drawWindow(offer, id);
    }

    function commitWindow(IJobMarket.Offer memory offer, bytes32 id) internal {
        bytes32 root = honestRoot(offer, id, market.job(id).window);
        vm.prank(offer.worker);
        market.commit(offer, root);
    }

    function drawWindow(IJobMarket.Offer memory offer, bytes32 id) internal {
        later(12);
        market.draw(offer, secretFor(market.job(id).window));
    }

    function settleWindow(IJobMarket.Offer memory offer, bytes32 id) internal {
        afterDeadline(id);
        market.settle(offer);
    }

    // --- the worker's trace ---

    function stateRoot(IJobMarket.Offer memory offer, uint256 afterSegments) internal pure returns (bytes32) {
        return afterSegments == 0 ? offer.initialRoot : keccak256(abi.encode("state", afterSegments));
    }

    function honestLeaf(IJobMarket.Offer memory offer, bytes32 id, uint256 index) internal view returns (bytes32) {
        bytes32 input = stateRoot(offer, index);
        return Tags.leaf(address(market), id, offer.worker, index, input, stateRoot(offer, index + 1));
    }

    function honestLeaves(IJobMarket.Offer memory offer, bytes32 id, uint256 window)
        internal
        view
        returns (bytes32[] memory leaves)
    {
        uint256 first = window * offer.segmentsPerWindow;
        uint256 end = first + offer.segmentsPerWindow;
        if (end > offer.segmentCount) end = offer.segmentCount;
        leaves = new bytes32[](end - first);
        for (uint256 i = first; i < end; ++i) {
            leaves[i - first] = honestLeaf(offer, id, i);
        }
    }

    function honestRoot(IJobMarket.Offer memory offer, bytes32 id, uint256 window) internal view returns (bytes32) {
        return rootOf(honestLeaves(offer, id, window));
    }

    function opened(IJobMarket.Offer memory offer, bytes32 id, uint256 index)
        internal
        view
        returns (IJobMarket.Opening memory)
    {
        uint256 window = index / offer.segmentsPerWindow;
        uint256 place = index % offer.segmentsPerWindow;
        return IJobMarket.Opening({
            index: uint32(index),
            inputRoot: stateRoot(offer, index),
            outputRoot: stateRoot(offer, index + 1),
            proof: proofOf(honestLeaves(offer, id, window), place)
        });
    }

    // --- trees, written apart from MerkleLib so that one checks the other ---

    function rootOf(bytes32[] memory leaves) internal pure returns (bytes32) {
        bytes32[] memory level = padded(leaves);
        while (level.length > 1) level = above(level);
        return level[0];
    }

    function proofOf(bytes32[] memory leaves, uint256 index) internal pure returns (bytes32[] memory proof) {
        bytes32[] memory level = padded(leaves);
        proof = new bytes32[](MerkleLib.depth(leaves.length));
        for (uint256 i = 0; i < proof.length; ++i) {
            proof[i] = level[index ^ 1];
            level = above(level);
            index >>= 1;
        }
    }

    function padded(bytes32[] memory leaves) private pure returns (bytes32[] memory level) {
        uint256 width = 1;
        while (width < leaves.length) width *= 2;
        level = new bytes32[](width);
        for (uint256 i = 0; i < leaves.length; ++i) {
            level[i] = leaves[i];
        }
    }

    function above(bytes32[] memory level) private pure returns (bytes32[] memory next) {
        next = new bytes32[](level.length / 2);
        for (uint256 i = 0; i < next.length; ++i) {
            next[i] = keccak256(abi.encode(bytes32("tolsey/node/1"), level[2 * i], level[2 * i + 1]));
        }
    }

    // --- verifiers at work ---

    function saltOf(address verifier, bytes32 id, uint256 window) internal pure returns (uint128) {
        return Tags.salt(secretOf(verifier), id, window);
    }

    function sealAs(IJobMarket.Offer memory offer, address verifier, uint8 kind, uint32 segment) internal {
        bytes32 id = market.jobId(offer);
        uint16 window = market.job(id).window;
        bytes32 seal = Tags.verdictSeal(id, window, verifier, kind, segment, saltOf(verifier, id, window));
        vm.prank(verifier);
        market.sealVerdict(offer, seal);
    }

    function revealAs(IJobMarket.Offer memory offer, address verifier, uint8 kind, uint32 segment) internal {
        bytes32 id = market.jobId(offer);
        uint128 salt = saltOf(verifier, id, market.job(id).window);
        vm.prank(verifier);
        market.revealVerdict(offer, kind, segment, salt);
    }

    // --- disputes ---

    function challenged(IJobMarket.Offer memory offer, uint256 index, bytes32 claimedRoot)
        internal
        returns (bytes32 id, bytes32 disputeId)
    {
        id = drawn(offer);
        disputeId = challengeAs(carol, offer, id, opened(offer, id, index), claimedRoot);
    }

    function challengeAs(
        address who,
        IJobMarket.Offer memory offer,
        bytes32 id,
        IJobMarket.Opening memory opening,
        bytes32 claimedRoot
    ) internal returns (bytes32 disputeId) {
        bytes32 seal = Tags.challengeSeal(who, id, opening.index, claimedRoot, "salt");
        vm.prank(who);
        market.sealChallenge(seal);
        later(12);
        vm.prank(who);
        market.challenge(offer, opening, claimedRoot, "salt");
        return Tags.disputeId(id, opening.index);
    }

    /// @dev Draws a panel and has its members vote in turn; vote 0 stays silent.
    function judged(bytes32 disputeId, uint8[3] memory votes) internal returns (address[] memory panel) {
        later(12);
        judge.drawPanel(disputeId);
        panel = judge.panelOf(disputeId);
        uint8 round = judge.caseOf(disputeId).round;
        for (uint256 i = 0; i < panel.length; ++i) {
            if (votes[i] == 0) continue;
            vm.prank(panel[i]);
            judge.sealVote(disputeId, Tags.voteSeal(disputeId, round, panel[i], votes[i], "vote"));
        }
        later(params.panelWindowS + 1);
        for (uint256 i = 0; i < panel.length; ++i) {
            if (votes[i] == 0) continue;
            vm.prank(panel[i]);
            judge.revealVote(disputeId, votes[i], "vote");
        }
        later(params.panelWindowS);
        vm.prank(mallory);
        judge.close(disputeId);
    }

    // --- comparing ---

    function same(uint256 actual, uint256 expected, string memory what) internal pure {
        require(
            actual == expected, string.concat(what, ": got ", vm.toString(actual), ", expected ", vm.toString(expected))
        );
    }

    function same(bytes32 actual, bytes32 expected, string memory what) internal pure {
        require(
            actual == expected, string.concat(what, ": got ", vm.toString(actual), ", expected ", vm.toString(expected))
        );
    }

    function same(address actual, address expected, string memory what) internal pure {
        require(
            actual == expected, string.concat(what, ": got ", vm.toString(actual), ", expected ", vm.toString(expected))
        );
    }

    function isTrue(bool holds, string memory what) internal pure {
        require(holds, what);
    }

    function stateIs(bytes32 id, IJobMarket.State expected) internal view {
        same(uint256(market.job(id).state), uint256(expected), "state");
    }

    function pick(uint256 seed, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + seed % (most - least + 1);
    }

    /// @dev The books balance: every account that the tests know, against the token.
    function sumOfAccounts() internal view returns (uint256 sum) {
        address[6] memory named = [alice, bob, carol, mallory, treasury, BURN];
        for (uint256 i = 0; i < named.length; ++i) {
            sum += free(named[i]) + locked(named[i]);
        }
        for (uint256 i = 0; i < verifiers.length; ++i) {
            sum += free(verifiers[i]) + locked(verifiers[i]);
        }
    }

    function booksBalance() internal view {
        same(sumOfAccounts(), dollar.balanceOf(address(market)), "sum of accounts");
    }

    function lockedIsBondsOnly() internal view {
        same(locked(alice), 0, "client's locked");
        same(locked(bob), params.workerBond, "worker's locked");
        same(locked(carol), 0, "challenger's locked");
        booksBalance();
    }
}
