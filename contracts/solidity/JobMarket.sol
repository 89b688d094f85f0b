// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {JobRules} from "./JobRules.sol";
import {Ledger} from "./Ledger.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import "./libraries/Errors.sol";
import {JobSlot} from "./libraries/JobSlot.sol";
import {Tags} from "./libraries/Tags.sol";
import {MarketAnnex} from "./MarketAnnex.sol";
import {MarketStorage} from "./MarketStorage.sol";
import {RegistryViews} from "./RegistryViews.sol";

/// @title Escrow, bonds and the life of a job
/// @notice Entry points stand in the order of the table in docs/protocol.md section 3. Each one: checks, effects,
/// event, interactions. Nobody owns this contract; no parameter changes; nothing pauses.
/// What is rare (registrations, disputes, penalties) is in the code of {MarketAnnex}, which works on this contract's
/// storage.
contract JobMarket is IJobMarket, IDisputes, Ledger, RegistryViews, JobRules, Multicall {
    using Accounts for Accounts.Book;

    /// @notice Ceiling of the fee on a window's price, in hundredths of a percent.
    uint16 public constant MAX_FEE_BPS = 200;
    uint256 private constant BPS = 10_000;

    /// @dev Panel fees that a worker's or challenger's bond must cover: twice a whole panel's.
    uint256 private constant PANEL_COVER = 6;

    /// @dev Bounds of an offer: what a draw, a proof or the job's word can hold within a block's gas.
    uint256 private constant MAX_VERIFIERS = 7;
    uint256 private constant MAX_SAMPLES = 1024;
    uint256 private constant MAX_SEGMENTS_PER_WINDOW = 65_536;
    uint256 private constant MAX_WINDOWS = type(uint16).max;

    /// @notice The code of the other half.
    address public immutable annex;

    constructor(Params memory p) MarketStorage(p) {
        _checkParams(p);
        annex = address(new MarketAnnex(p));
    }

    // --- the client and the worker agree ---

    /// @inheritdoc IJobMarket
    function accept(Offer calldata offer, bytes calldata signature) external returns (bytes32 id) {
        id = _jobId(offer);
        if (_jobs[id] != 0) revert JobMarket_WrongState(id, State.None, _job(id).state);
        if (msg.sender != offer.client) revert JobMarket_WrongCaller(id, offer.client, msg.sender);
        if (block.timestamp > offer.expiresAt) {
            revert JobMarket_OfferExpired(id, offer.expiresAt, block.timestamp);
        }
        _checkTerms(id, offer);
        _requireActiveWorker(offer.worker);
        address signer = ECDSA.recoverCalldata(id, signature);
        if (signer != offer.worker) revert JobMarket_WrongSigner(id, offer.worker, signer);

        uint40 deadline = _after(offer.commitWindowS);
        _jobs[id] = JobSlot.word(State.Accepted, 0, 0, deadline, 0, 0, 0);
        _accounts.lock(offer.client, _escrowLeft(offer, 0, 0));
        _accounts.lock(offer.worker, offer.bond);
        _emitAccepted(id, deadline, offer);
    }

    /// @inheritdoc IJobMarket
    function revokeOffer(Offer calldata offer) external {
        (bytes32 id, Job memory j) = _require(offer, State.None);
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        _end(id, j, State.Cancelled);
        emit Revoked(id, State.None, State.Cancelled, 0, j.deadline, offer.worker);
    }

    // --- a window's work ---

    /// @inheritdoc IJobMarket
    function commit(Offer calldata offer, bytes32 root) external {
        (bytes32 id, uint256 job_) = _requireWord(offer, State.Accepted);
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        _requireInTime(id, JobSlot.deadlineOf(job_));
        if (root == 0) revert JobMarket_ZeroRoot(id);

        uint16 window = JobSlot.windowOf(job_);
        uint40 deadline = _after(offer.revealWindowS);
        _roots[id][window] = root;
        // The pool that is drawn from is fixed before the secret is told: whoever saw the secret on its way could else
        // register until the draw is as it likes.
        uint256 pending = JobSlot.beforeDraw(block.number, _pools[offer.classId].places.length);
        _jobs[id] =
            JobSlot.word(State.Committed, window, block.timestamp, deadline, 0, JobSlot.verdictsPaidOf(job_), pending);
        emit Committed(id, State.Accepted, State.Committed, window, deadline, root);
    }

    /// @inheritdoc IJobMarket
    function draw(Offer calldata offer, bytes32 secret) external {
        (bytes32 id, uint256 job_) = _requireWord(offer, State.Committed);
        uint16 window = JobSlot.windowOf(job_);
        if (block.number <= JobSlot.committedIn(job_)) revert JobMarket_SameBlock(id, JobSlot.committedIn(job_));
        if (secret == 0) _requireOverdue(id, JobSlot.deadlineOf(job_));
        else _checkSecret(id, offer.clientSeal, secret, uint256(window) + 1);

        bytes32 beacon = _beacon.randomness();
        uint112 seed = Tags.seed(id, window, _roots[id][window], secret, beacon);
        uint16 size = JobSlot.poolOfDraw(job_);
        uint40 deadline = _after(offer.challengeWindowS);
        _jobs[id] =
            JobSlot.word(State.Drawn, window, block.timestamp, deadline, size, JobSlot.verdictsPaidOf(job_), seed);
        emit Drawn(id, State.Committed, State.Drawn, window, deadline, seed, size, secret, beacon);
    }

    /// @inheritdoc IJobMarket
    function settle(Offer calldata offer) external {
        (bytes32 id, uint256 job_) = _requireWord(offer, State.Drawn);
        _requireOverdue(id, JobSlot.deadlineOf(job_));

        uint256 paidBefore = JobSlot.windowOf(job_);
        uint256 windows = _windows(offer);
        uint256 price = offer.price;
        uint256 due;
        uint256 fee;
        unchecked {
            // Products of a 96-bit price and at most 16 bits; the second quotient is not above the first.
            due = price * (paidBefore + 1) / windows - price * paidBefore / windows;
            fee = due * _feeBps / BPS;
        }
        bool last = paidBefore + 1 == windows;
        uint256 escrowReturned = last ? _escrowLeft(offer, paidBefore, JobSlot.verdictsPaidOf(job_)) - due : 0;
        uint256 bondReturned = last ? offer.bond : 0;
        State to = last ? State.Completed : State.Accepted;
        uint40 deadline = _after(last ? 0 : offer.commitWindowS);

        _jobs[id] = JobSlot.advance(job_, to, deadline);
        _accounts.change(offer.client, escrowReturned, escrowReturned + due);
        _accounts.change(offer.worker, due - fee + bondReturned, bondReturned);
        if (fee != 0) _accounts.credit(_treasury, fee);
        emit Settled(
            id, State.Drawn, to, uint16(paidBefore + 1), deadline, due - fee, fee, escrowReturned, bondReturned
        );
    }

    // --- early ends ---

    /// @inheritdoc IJobMarket
    function cancel(Offer calldata offer) external {
        (bytes32 id, Job memory j) = _require(offer, State.Accepted);
        if (msg.sender != offer.client) revert JobMarket_WrongCaller(id, offer.client, msg.sender);

        uint256 escrow = _escrowLeft(offer, j);
        uint256 toWorker = offer.forfeit < escrow ? offer.forfeit : escrow;
        _end(id, j, State.Cancelled);
        _accounts.pay(offer.client, offer.worker, toWorker);
        _accounts.unlock(offer.client, escrow - toWorker);
        _accounts.unlock(offer.worker, offer.bond);
        emit Cancelled(
            id, State.Accepted, State.Cancelled, j.window, j.deadline, toWorker, escrow - toWorker, offer.bond
        );
    }

    /// @inheritdoc IJobMarket
    function resign(Offer calldata offer) external {
        (bytes32 id, Job memory j) = _require(offer, State.Accepted);
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        uint256 escrow = _forfeitBond(id, offer, j, State.Cancelled);
        emit Resigned(
            id, State.Accepted, State.Cancelled, j.window, j.deadline, offer.forfeit, escrow, offer.bond - offer.forfeit
        );
    }

    /// @inheritdoc IJobMarket
    function expire(Offer calldata offer) external {
        (bytes32 id, Job memory j) = _require(offer, State.Accepted);
        _requireOverdue(id, j.deadline);
        uint256 escrow = _forfeitBond(id, offer, j, State.Expired);
        emit Expired(
            id, State.Accepted, State.Expired, j.window, j.deadline, offer.forfeit, escrow, offer.bond - offer.forfeit
        );
    }

    // --- drawn verifiers ---

    /// @inheritdoc IJobMarket
    function sealVerdict(Offer calldata offer, bytes32 seal) external {
        bytes32 id = _jobId(offer);
        Job memory j = _requireDrawnOrDisputed(id);
        _requireInTime(id, _sealUntil(offer, j));
        Verifier memory own = _requireDrawn(id, offer, j, msg.sender);
        if (own.leavingSince != 0) revert Registry_Leaving(msg.sender, own.leavingSince);
        if (own.bond == 0) revert Registry_NoBondLeft(offer.classId, msg.sender);
        if (_verdicts[id][j.window][msg.sender] != 0) {
            revert JobMarket_AlreadySealed(id, j.window, msg.sender);
        }
        seal = bytes32(uint256(seal) | Tags.SEALED);
        _verdicts[id][j.window][msg.sender] = uint256(seal);
        emit VerdictSealed(id, msg.sender, j.window, seal);
    }

    /// @inheritdoc IJobMarket
    function revealVerdict(Offer calldata offer, uint8 kind, uint32 segment, uint128 salt) external {
        bytes32 id = _jobId(offer);
        Job memory j = _requireDrawnOrDisputed(id);
        _requireOverdue(id, _sealUntil(offer, j));
        _requireInTime(id, _revealUntil(offer, j));
        if (kind < MATCH || kind > ABSTAIN) revert JobMarket_UnknownVerdict(kind);
        bytes32 stored = bytes32(_verdicts[id][j.window][msg.sender]);
        bytes32 revealed = Tags.verdictSeal(id, j.window, msg.sender, kind, segment, salt);
        if (stored != revealed) revert JobMarket_WrongSeal(id, stored, revealed);

        _verdicts[id][j.window][msg.sender] = _packVerdict(kind, segment, salt);
        uint256 paid = kind == ABSTAIN ? 0 : offer.verdictFee;
        if (paid != 0) {
            j.verdictsPaid += 1;
            _move(id, j, j.state);
            _accounts.pay(offer.client, msg.sender, paid);
        }
        emit VerdictRevealed(id, msg.sender, j.window, kind, segment, salt, paid);
    }

    // --- Registry.sol, in the other half ---

    /// @inheritdoc IRegistry
    function registerWorker(bytes calldata, bytes calldata) external {
        _toAnnex();
    }

    /// @inheritdoc IRegistry
    function requestWorkerExit() external {
        _toAnnex();
    }

    /// @inheritdoc IRegistry
    function withdrawWorkerBond() external {
        _toAnnex();
    }

    /// @inheritdoc IRegistry
    function registerVerifier(bytes32, bytes32, bytes calldata, bytes calldata) external {
        _toAnnex();
    }

    /// @inheritdoc IRegistry
    function requestVerifierExit(bytes32, bytes32) external {
        _toAnnex();
    }

    /// @inheritdoc IRegistry
    function withdrawVerifierBond(bytes32) external {
        _toAnnex();
    }

    // --- Disputes.sol, in the other half ---

    /// @inheritdoc IDisputes
    function penalizeSilence(Offer calldata, address) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function penalizeFalseMatch(Offer calldata, address) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function penalizeFalseSalt(Offer calldata, uint16, address) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function sealChallenge(bytes32) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function challenge(Offer calldata, Opening calldata, bytes32, bytes32) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function demand(Offer calldata, uint32) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function answer(Offer calldata, Opening calldata) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function proveDiscontinuity(Offer calldata, Opening calldata, Opening calldata) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function resolve(Offer calldata) external {
        _toAnnex();
    }

    /// @inheritdoc IDisputes
    function penalizePanelist(bytes32, address, bytes32, address) external {
        _toAnnex();
    }

    // --- views ---

    /// @inheritdoc IJobMarket
    function jobId(Offer calldata offer) external view returns (bytes32) {
        return _jobId(offer);
    }

    /// @inheritdoc IJobMarket
    function verdict(bytes32 id, uint16 window, address verifier_) external view returns (Verdict memory) {
        return _verdict(id, window, verifier_);
    }

    /// @inheritdoc IJobMarket
    function job(bytes32 id) external view returns (Job memory) {
        return _job(id);
    }

    /// @inheritdoc IJobMarket
    function windowRoot(bytes32 id, uint16 window) external view returns (bytes32) {
        return _roots[id][window];
    }

    /// @inheritdoc IJobMarket
    function dispute(bytes32 id) external view returns (Dispute memory) {
        return _disputes[id];
    }

    /// @inheritdoc IJobMarket
    function drawnVerifiers(Offer calldata offer) external view returns (address[] memory drawn) {
        Job memory j = _job(_jobId(offer));
        uint256[] memory ids = DrawLib.draw(Tags.verifiersKey(j.seed), j.poolSize, _verifiersDrawn(offer, j));
        drawn = new address[](ids.length);
        uint256 count;
        for (uint256 i = 0; i < ids.length; ++i) {
            address who = _pools[offer.classId].places[ids[i]];
            uint40 since = _verifiers[offer.classId][who].registeredAt;
            if (since != 0 && since < j.drawnAt) drawn[count++] = who;
        }
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            mstore(drawn, count) // shortens the list to those found
        }
    }

    /// @inheritdoc IJobMarket
    function sample(Offer calldata offer, uint16 window, address verifier_) external view returns (uint256[] memory) {
        bytes32 id = _jobId(offer);
        Job memory j = _job(id);
        Verdict memory said = _verdict(id, window, verifier_);
        if (window != _drawnWindow(j) || j.poolSize == 0 || said.revealedAt == 0) {
            revert JobMarket_NotDrawn(id, window, verifier_);
        }
        (uint256 first, uint256 end) = _segments(offer, window);
        return DrawLib.draw(Tags.sampleKey(j.seed, said.salt), end - first, _sampled(offer, end - first));
    }

    /// @inheritdoc IJobMarket
    function escrowLeft(Offer calldata offer) external view returns (uint256) {
        Job memory j = _job(_jobId(offer));
        return j.state == State.None || j.state >= State.Completed ? 0 : _escrowLeft(offer, j);
    }

    /// @inheritdoc IJobMarket
    function params() external view returns (Params memory) {
        return Params({
            token: _token,
            treasury: _treasury,
            feeBps: _feeBps,
            workerBond: _workerBond,
            verifierBond: _verifierBond,
            challengeBond: _challengeBond,
            panelFee: _panelFee,
            minJobBond: _minJobBond,
            unbondingS: _unbondingS,
            maxWindowS: _maxWindowS,
            minVerdictWindowS: _minVerdictWindowS,
            panelWindowS: _panelWindowS,
            beacon: _beacon,
            judge: _judge
        });
    }

    // --- helpers ---

    /// @dev Hands the whole call to the other half and its answer, or its error, to the caller.
    function _toAnnex() private {
        (bool done, bytes memory answer_) = annex.delegatecall(msg.data);
        if (!done) {
            // slither-disable-next-line assembly
            assembly ("memory-safe") {
                revert(add(answer_, 32), mload(answer_)) // the error as the other half threw it
            }
        }
    }

    /// @dev Rows 5 and 6 of the table: the forfeit from the bond to the client.
    function _forfeitBond(bytes32 id, Offer calldata offer, Job memory j, State to) private returns (uint256 escrow) {
        escrow = _escrowLeft(offer, j);
        _end(id, j, to);
        _accounts.pay(offer.worker, offer.client, offer.forfeit);
        _accounts.unlock(offer.client, escrow);
        _accounts.unlock(offer.worker, offer.bond - offer.forfeit);
    }

    /// @dev Verdicts go on while a dispute runs: a demand must not make verifiers miss their time.
    function _requireDrawnOrDisputed(bytes32 id) private view returns (Job memory j) {
        j = _job(id);
        if (j.state != State.Drawn && j.state != State.Demanded && j.state != State.Challenged) {
            revert JobMarket_WrongState(id, State.Drawn, j.state);
        }
    }

    function _checkSecret(bytes32 id, bytes32 expected, bytes32 secret, uint256 times) private pure {
        bytes32 hashed = secret;
        for (uint256 i = 0; i < times; ++i) {
            hashed = Tags.sealOf(hashed);
        }
        if (hashed != expected) revert JobMarket_WrongSecret(id, expected, hashed, times);
    }

    /// @dev emit Accepted(id, State.None, State.Accepted, 0, deadline, offer.client, offer.worker, offer), with the offer's
    /// words copied as they stand; encoding each field anew costs 1,200 gas more.
    function _emitAccepted(bytes32 id, uint256 deadline, Offer calldata offer) private {
        bytes32 selector = Accepted.selector;
        uint256 to = uint256(State.Accepted);
        address client = offer.client;
        address worker_ = offer.worker;
        assembly ("memory-safe") {
            let data := mload(64)
            mstore(data, 0)
            mstore(add(data, 32), to)
            mstore(add(data, 64), 0)
            mstore(add(data, 96), deadline)
            calldatacopy(add(data, 128), offer, 640) // 20 fields
            log4(data, 768, selector, id, client, worker_)
        }
    }

    function _checkTerms(bytes32 id, Offer calldata offer) private view {
        // Reading a field refuses one too large for its type; the nonce is read nowhere else, and logs carry it.
        _notAbove(id, "nonce", offer.nonce, type(uint64).max);
        _notBelow(id, "segmentCount", offer.segmentCount, 1);
        _notBelow(id, "segmentsPerWindow", offer.segmentsPerWindow, 1);
        _notAbove(id, "segmentsPerWindow", offer.segmentsPerWindow, MAX_SEGMENTS_PER_WINDOW);
        _notAbove(id, "windows", _windows(offer), MAX_WINDOWS);
        _notAbove(id, "verifierCount", offer.verifierCount, MAX_VERIFIERS);
        _notAbove(id, "sampleCount", offer.sampleCount, MAX_SAMPLES);
        uint256 bond = offer.bond;
        _notBelow(id, "bond", bond, _minJobBond);
        _notAbove(id, "forfeit", offer.forfeit, bond < offer.price ? bond : offer.price);
        _notBelow(id, "commitWindowS", offer.commitWindowS, 1);
        _notAbove(id, "commitWindowS", offer.commitWindowS, _maxWindowS);
        _notBelow(id, "revealWindowS", offer.revealWindowS, 1);
        _notAbove(id, "revealWindowS", offer.revealWindowS, _maxWindowS);
        // The challenge window's bounds give the verdict window its upper one.
        uint256 verdictWindowS = offer.verdictWindowS;
        _notBelow(id, "verdictWindowS", verdictWindowS, _minVerdictWindowS);
        _notBelow(id, "challengeWindowS", offer.challengeWindowS, 2 * verdictWindowS + 1);
        _notAbove(id, "challengeWindowS", offer.challengeWindowS, _maxWindowS);
    }

    function _notBelow(bytes32 id, bytes32 term, uint256 value, uint256 bound) private pure {
        if (value < bound) revert JobMarket_TermOutOfBounds(id, term, value, bound);
    }

    function _notAbove(bytes32 id, bytes32 term, uint256 value, uint256 bound) private pure {
        if (value > bound) revert JobMarket_TermOutOfBounds(id, term, value, bound);
    }

    function _checkParams(Params memory p) private pure {
        _atMost("feeBps", p.feeBps, MAX_FEE_BPS);
        if (p.feeBps != 0) _atLeast("treasury", uint160(p.treasury), 1);
        uint256 cover = PANEL_COVER * uint256(p.panelFee);
        _atLeast("challengeBond", p.challengeBond, cover);
        _atLeast("minJobBond", p.minJobBond, cover);
        _atLeast("verifierBond", p.verifierBond, SILENCE_FACTOR * uint256(p.panelFee));
        _atLeast("verifierBond", p.verifierBond, 1);
        _atLeast("panelWindowS", p.panelWindowS, 1);
        _atLeast("minVerdictWindowS", p.minVerdictWindowS, 1);
        _atLeast("maxWindowS", p.maxWindowS, 2 * uint256(p.minVerdictWindowS) + 1);
        uint256 disputeLife = 2 * uint256(p.maxWindowS) + JUDGE_ROUNDS * (2 * uint256(p.panelWindowS) + p.maxWindowS);
        _atLeast("unbondingS", p.unbondingS, disputeLife + 1);
        _atLeast("beacon", uint160(address(p.beacon)), 1);
        _atLeast("judge", uint160(address(p.judge)), 1);
    }

    function _atLeast(bytes32 name, uint256 value, uint256 bound) private pure {
        if (value < bound) revert JobMarket_BadParameter(name, value, bound);
    }

    function _atMost(bytes32 name, uint256 value, uint256 bound) private pure {
        if (value > bound) revert JobMarket_BadParameter(name, value, bound);
    }
}
