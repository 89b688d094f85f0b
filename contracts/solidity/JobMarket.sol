// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {IBeacon} from "./interfaces/IBeacon.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IStepJudge} from "./interfaces/IStepJudge.sol";
import {Ledger} from "./Ledger.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import "./libraries/Errors.sol";
import {MerkleLib} from "./libraries/MerkleLib.sol";
import {Tags} from "./libraries/Tags.sol";
import {Registry} from "./Registry.sol";

/// @title Escrow, bonds and the life of a job
/// @notice Entry points stand in the order of the table in docs/protocol.md section 3. Each one: checks, effects,
/// event, interactions. Nobody owns this contract; no parameter changes; nothing pauses.
contract JobMarket is IJobMarket, Registry, EIP712, Multicall {
    /// @notice Ceiling of the fee on a window's price, in hundredths of a percent.
    uint16 public constant MAX_FEE_BPS = 200;
    uint256 private constant BPS = 10_000;

    /// @dev Bounds of an offer: what a draw, a proof or the job's word can hold within a block's gas.
    uint256 private constant MAX_VERIFIERS = 7;
    uint256 private constant MAX_SAMPLES = 1024;
    uint256 private constant MAX_SEGMENTS_PER_WINDOW = 65_536;
    uint256 private constant MAX_WINDOWS = type(uint16).max;

    /// @dev The worker's part of a challenger's bond for answering a demand: a tenth.
    uint256 private constant ANSWER_SHARE = 10;
    /// @dev Rounds of a judge, each with time to draw (maxWindowS), to seal and to reveal (panelWindowS each).
    uint256 private constant JUDGE_ROUNDS = 3;
    /// @dev Two silent verdicts or votes' worth.
    uint256 private constant SILENCE_FACTOR = 2;
    /// @dev A bond covers this many panel fees: both panels that a worker or challenger could have to pay.
    uint256 private constant PANEL_COVER = 6;

    uint256 private constant MATCH = 1;
    uint256 private constant ABSTAIN = 4;
    uint256 private constant SILENT = 5;

    bytes32 public constant OFFER_TYPEHASH = keccak256(
        "Offer(bytes32 specHash,bytes32 classId,bytes32 initialRoot,bytes32 clientSeal,address client,address worker,"
        "uint96 price,uint96 bond,uint96 forfeit,uint96 verdictFee,uint32 segmentCount,uint32 segmentsPerWindow,"
        "uint8 verifierCount,uint16 sampleCount,uint32 commitWindowS,uint32 revealWindowS,uint32 verdictWindowS,"
        "uint32 challengeWindowS,uint64 nonce,uint40 expiresAt)"
    );

    address private immutable _treasury;
    uint16 private immutable _feeBps;
    uint96 private immutable _challengeBond;
    uint96 private immutable _panelFee;
    uint96 private immutable _minJobBond;
    uint32 private immutable _maxWindowS;
    uint32 private immutable _minVerdictWindowS;
    uint32 private immutable _panelWindowS;
    IBeacon private immutable _beacon;
    IStepJudge private immutable _judge;

    mapping(bytes32 jobId => Job) private _jobs;
    mapping(bytes32 jobId => mapping(uint256 window => bytes32 root)) private _roots;
    mapping(bytes32 jobId => Dispute) private _disputes;
    /// @dev Sealed: the seal, top bit set. Revealed: see {_packVerdict}.
    mapping(bytes32 jobId => mapping(uint256 window => mapping(address verifier => uint256))) private _verdicts;
    /// @dev Block in which a challenge was sealed.
    mapping(bytes32 seal => uint256 blockNumber) private _challengeSeals;

    constructor(Params memory p)
        Ledger(p.token)
        Registry(p.workerBond, p.verifierBond, p.unbondingS)
        EIP712("Tolsey", "1")
    {
        _checkParams(p);
        _treasury = p.treasury;
        _feeBps = p.feeBps;
        _challengeBond = p.challengeBond;
        _panelFee = p.panelFee;
        _minJobBond = p.minJobBond;
        _maxWindowS = p.maxWindowS;
        _minVerdictWindowS = p.minVerdictWindowS;
        _panelWindowS = p.panelWindowS;
        _beacon = p.beacon;
        _judge = p.judge;
    }

    // --- the client and the worker agree ---

    /// @inheritdoc IJobMarket
    function accept(Offer calldata offer, bytes calldata signature) external returns (bytes32 id) {
        id = _require(offer, State.None);
        if (msg.sender != offer.client) revert JobMarket_WrongCaller(id, offer.client, msg.sender);
        if (block.timestamp > offer.expiresAt) {
            revert JobMarket_OfferExpired(id, offer.expiresAt, block.timestamp);
        }
        _checkTerms(id, offer);
        _requireActiveWorker(offer.worker);
        address signer = ECDSA.recoverCalldata(id, signature);
        if (signer != offer.worker) revert JobMarket_WrongSigner(id, offer.worker, signer);

        Job memory j;
        j.deadline = _after(offer.commitWindowS);
        _move(id, j, State.Accepted);
        _lock(offer.client, _escrowLeft(offer, j));
        _lock(offer.worker, offer.bond);
        emit Accepted(id, State.None, State.Accepted, 0, j.deadline, offer.client, offer.worker, offer);
    }

    /// @inheritdoc IJobMarket
    function revokeOffer(Offer calldata offer) external {
        bytes32 id = _require(offer, State.None);
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        Job memory j;
        _end(id, j, State.Cancelled);
        emit Revoked(id, State.None, State.Cancelled, 0, j.deadline, offer.worker);
    }

    // --- a window's work ---

    /// @inheritdoc IJobMarket
    function commit(Offer calldata offer, bytes32 root) external {
        bytes32 id = _require(offer, State.Accepted);
        Job memory j = _jobs[id];
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        _requireInTime(id, j.deadline);
        if (root == 0) revert JobMarket_ZeroRoot(id);

        _roots[id][j.window] = root;
        j.drawnAt = uint40(block.timestamp);
        j.deadline = _after(offer.revealWindowS);
        j.poolSize = 0;
        j.seed = uint112(block.number);
        _move(id, j, State.Committed);
        emit Committed(id, State.Accepted, State.Committed, j.window, j.deadline, root);
    }

    /// @inheritdoc IJobMarket
    function draw(Offer calldata offer, bytes32 secret) external {
        bytes32 id = _require(offer, State.Committed);
        Job memory j = _jobs[id];
        if (block.number <= j.seed) revert JobMarket_SameBlock(id, j.seed);
        if (secret == 0) _requireOverdue(id, j.deadline);
        else _checkSecret(id, offer.clientSeal, secret, uint256(j.window) + 1);

        bytes32 beacon = _beacon.randomness();
        j.seed = Tags.seed(id, j.window, _roots[id][j.window], secret, beacon);
        j.poolSize = uint16(poolSize(offer.classId));
        j.drawnAt = uint40(block.timestamp);
        j.deadline = _after(offer.challengeWindowS);
        _move(id, j, State.Drawn);
        emit Drawn(id, State.Committed, State.Drawn, j.window, j.deadline, j.seed, j.poolSize, secret, beacon);
    }

    /// @inheritdoc IJobMarket
    function settle(Offer calldata offer) external {
        bytes32 id = _require(offer, State.Drawn);
        Job memory j = _jobs[id];
        _requireOverdue(id, j.deadline);

        uint256 escrow = _escrowLeft(offer, j);
        uint256 due = _pricePaid(offer, j.window + 1) - _pricePaid(offer, j.window);
        uint256 fee = due * _feeBps / BPS;
        uint256 escrowReturned;
        uint256 bondReturned;
        j.window += 1;
        if (j.window == _windows(offer)) {
            (escrowReturned, bondReturned) = (escrow - due, offer.bond);
            _end(id, j, State.Completed);
        } else {
            j.deadline = _after(offer.commitWindowS);
            _move(id, j, State.Accepted);
        }
        _pay(offer.client, offer.worker, due - fee);
        _pay(offer.client, _treasury, fee);
        _unlock(offer.client, escrowReturned);
        _unlock(offer.worker, bondReturned);
        emit Settled(
            id, State.Drawn, j.state, j.window, j.deadline, due - fee, fee, escrowReturned, bondReturned
        );
    }

    // --- early ends ---

    /// @inheritdoc IJobMarket
    function cancel(Offer calldata offer) external {
        bytes32 id = _require(offer, State.Accepted);
        Job memory j = _jobs[id];
        if (msg.sender != offer.client) revert JobMarket_WrongCaller(id, offer.client, msg.sender);

        uint256 escrow = _escrowLeft(offer, j);
        uint256 toWorker = offer.forfeit < escrow ? offer.forfeit : escrow;
        _end(id, j, State.Cancelled);
        _pay(offer.client, offer.worker, toWorker);
        _unlock(offer.client, escrow - toWorker);
        _unlock(offer.worker, offer.bond);
        emit Cancelled(
            id, State.Accepted, State.Cancelled, j.window, j.deadline, toWorker, escrow - toWorker, offer.bond
        );
    }

    /// @inheritdoc IJobMarket
    function resign(Offer calldata offer) external {
        bytes32 id = _require(offer, State.Accepted);
        Job memory j = _jobs[id];
        if (msg.sender != offer.worker) revert JobMarket_WrongCaller(id, offer.worker, msg.sender);
        uint256 escrow = _forfeitBond(id, offer, j, State.Cancelled);
        emit Resigned(
            id,
            State.Accepted,
            State.Cancelled,
            j.window,
            j.deadline,
            offer.forfeit,
            escrow,
            offer.bond - offer.forfeit
        );
    }

    /// @inheritdoc IJobMarket
    function expire(Offer calldata offer) external {
        bytes32 id = _require(offer, State.Accepted);
        Job memory j = _jobs[id];
        _requireOverdue(id, j.deadline);
        uint256 escrow = _forfeitBond(id, offer, j, State.Expired);
        emit Expired(
            id,
            State.Accepted,
            State.Expired,
            j.window,
            j.deadline,
            offer.forfeit,
            escrow,
            offer.bond - offer.forfeit
        );
    }

    // --- drawn verifiers ---

    /// @inheritdoc IJobMarket
    function sealVerdict(Offer calldata offer, bytes32 seal) external {
        bytes32 id = jobId(offer);
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
        bytes32 id = jobId(offer);
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
            _pay(offer.client, msg.sender, paid);
        }
        emit VerdictRevealed(id, msg.sender, j.window, kind, segment, salt, paid);
    }

    /// @inheritdoc IJobMarket
    function penalizeSilence(Offer calldata offer, address verifier_) external {
        bytes32 id = jobId(offer);
        Job memory j = _jobs[id];
        uint256 window = _drawnWindow(j);
        Verifier memory accused = _requireDrawn(id, offer, j, verifier_);
        // A dispute may have ended the job before the time to reveal was over; then nobody was silent.
        bool endedByDispute = j.state == State.Slashed || j.state == State.Voided;
        uint256 livedUntil = endedByDispute ? j.deadline : block.timestamp;
        uint256 revealUntil = _revealUntil(offer, j);
        if (livedUntil <= revealUntil) revert JobMarket_TooEarly(id, revealUntil, livedUntil);
        if (accused.leavingSince != 0 && accused.leavingSince <= j.drawnAt) {
            revert Registry_Leaving(verifier_, accused.leavingSince);
        }
        uint256 word = _verdicts[id][window][verifier_];
        if (word != 0 && word < Tags.SEALED) revert JobMarket_NoFault(id, verifier_, uint8(word));

        _verdicts[id][window][verifier_] = _packVerdict(SILENT, 0, 0);
        uint256 amount = SILENCE_FACTOR * uint256(offer.verdictFee);
        _penalize(offer.classId, verifier_, amount, Fault.Silence, id, msg.sender);
    }

    /// @inheritdoc IJobMarket
    function penalizeFalseMatch(Offer calldata offer, address verifier_) external {
        bytes32 id = _require(offer, State.Slashed);
        Job memory j = _jobs[id];
        Dispute memory d = _disputes[id];
        Verifier memory accused = _requireDrawn(id, offer, j, verifier_);
        Verdict memory said = verdict(id, j.window, verifier_);
        (uint256 first, uint256 end) = _segments(offer, j.window);
        bool guilty = d.matchRefuted && said.kind == MATCH
            && DrawLib.contains(
                Tags.sampleKey(j.seed, said.salt), end - first, _sampled(offer, end - first), d.segment - first
            );
        if (!guilty) revert JobMarket_NoFault(id, verifier_, said.kind);
        _penalize(offer.classId, verifier_, accused.bond, Fault.FalseMatch, id, msg.sender);
    }

    /// @inheritdoc IJobMarket
    function penalizeFalseSalt(Offer calldata offer, uint16 window, address verifier_) external {
        bytes32 id = jobId(offer);
        Verifier memory accused = verifier(offer.classId, verifier_);
        Verdict memory said = verdict(id, window, verifier_);
        bool revealed = said.kind >= MATCH && said.kind <= ABSTAIN;
        // The secret is public from the exit request on; an earlier registration's salts had another secret.
        bool comparable = accused.leavingSince != 0 && said.revealedAt > accused.registeredAt;
        if (!revealed || !comparable || said.salt == Tags.salt(accused.secret, id, window)) {
            revert JobMarket_NoFault(id, verifier_, said.kind);
        }
        _penalize(offer.classId, verifier_, accused.bond, Fault.FalseSalt, id, msg.sender);
    }

    // --- disputes ---

    /// @inheritdoc IJobMarket
    function sealChallenge(bytes32 seal) external {
        // Kept by sender: nobody can occupy another's seal.
        bytes32 key = keccak256(abi.encode(msg.sender, seal));
        if (_challengeSeals[key] != 0) revert JobMarket_ChallengeAlreadySealed(msg.sender, seal);
        _challengeSeals[key] = block.number;
        emit ChallengeSealed(msg.sender, seal);
    }

    /// @inheritdoc IJobMarket
    function challenge(Offer calldata offer, Opening calldata opening, bytes32 claimedRoot, bytes32 salt) external {
        bytes32 id = _require(offer, State.Drawn);
        Job memory j = _jobs[id];
        _requireInTime(id, j.deadline);
        _checkOpening(id, offer, j.window, opening);
        if (claimedRoot == opening.outputRoot) revert JobMarket_NothingDisputed(id, claimedRoot);
        _consumeSeal(id, Tags.challengeSeal(msg.sender, id, opening.index, claimedRoot, salt));

        _openDispute(id, j, State.Challenged, opening.index, _judgeLifeS());
        bytes32 disputeId = Tags.disputeId(id, opening.index);
        emit Challenged(
            id,
            State.Drawn,
            State.Challenged,
            j.window,
            j.deadline,
            msg.sender,
            disputeId,
            opening.index,
            opening.inputRoot,
            opening.outputRoot,
            claimedRoot,
            _challengeBond
        );
        _judge.open(
            IStepJudge.Claim({
                disputeId: disputeId,
                jobId: id,
                specHash: offer.specHash,
                classId: offer.classId,
                client: offer.client,
                worker: offer.worker,
                challenger: msg.sender,
                segment: opening.index,
                inputRoot: opening.inputRoot,
                outputRoot: opening.outputRoot,
                claimedRoot: claimedRoot
            })
        );
    }

    /// @inheritdoc IJobMarket
    function demand(Offer calldata offer, uint32 index) external {
        bytes32 id = _require(offer, State.Drawn);
        Job memory j = _jobs[id];
        _requireInTime(id, j.deadline);
        _placeInWindow(id, offer, j.window, index);
        _openDispute(id, j, State.Demanded, index, offer.verdictWindowS);
        emit Demanded(
            id, State.Drawn, State.Demanded, j.window, j.deadline, msg.sender, index, _challengeBond
        );
    }

    /// @inheritdoc IJobMarket
    function answer(Offer calldata offer, Opening calldata opening) external {
        bytes32 id = _require(offer, State.Demanded);
        Job memory j = _jobs[id];
        Dispute memory d = _disputes[id];
        _requireInTime(id, j.deadline);
        if (opening.index != d.segment) {
            revert JobMarket_WrongSegment(id, opening.index, d.segment, uint256(d.segment) + 1);
        }
        _checkOpening(id, offer, j.window, opening);

        _resume(id, offer, j, d);
        uint256 toWorker = _challengeBond / ANSWER_SHARE;
        _pay(d.challenger, offer.worker, toWorker);
        _unlock(d.challenger, _challengeBond - toWorker);
        emit Answered(
            id,
            State.Demanded,
            State.Drawn,
            j.window,
            j.deadline,
            d.challenger,
            d.segment,
            opening.inputRoot,
            opening.outputRoot,
            toWorker,
            _challengeBond - toWorker
        );
    }

    /// @inheritdoc IJobMarket
    function proveDiscontinuity(Offer calldata offer, Opening calldata before, Opening calldata here) external {
        bytes32 id = jobId(offer);
        Job memory j = _jobs[id];
        if (j.state != State.Committed && j.state != State.Drawn) {
            revert JobMarket_WrongState(id, State.Drawn, j.state);
        }
        _checkOpening(id, offer, j.window, here);
        bytes32 expected = offer.initialRoot;
        if (here.index != 0) {
            (uint256 first,) = _segments(offer, j.window);
            if (before.index != here.index - 1) {
                revert JobMarket_WrongSegment(id, before.index, here.index - 1, here.index);
            }
            _checkOpening(id, offer, here.index == first ? j.window - 1 : j.window, before);
            expected = before.outputRoot;
        }
        if (here.inputRoot == expected) revert JobMarket_Continuous(id, here.index, expected);

        Dispute memory d = Dispute({challenger: address(0), segment: here.index, timeLeftS: 0, matchRefuted: false});
        _slash(id, offer, j, d, msg.sender, new address[](0));
    }

    /// @inheritdoc IJobMarket
    function resolve(Offer calldata offer) external {
        bytes32 id = jobId(offer);
        Job memory j = _jobs[id];
        Dispute memory d = _disputes[id];
        if (j.state == State.Demanded) {
            _requireOverdue(id, j.deadline);
            _slash(id, offer, j, d, d.challenger, new address[](0));
            return;
        }
        if (j.state != State.Challenged) revert JobMarket_WrongState(id, State.Challenged, j.state);
        bytes32 disputeId = Tags.disputeId(id, d.segment);
        IStepJudge.Outcome memory found = _judge.outcome(disputeId);
        if (found.ruling == IStepJudge.Ruling.WorkerWrong) {
            d.matchRefuted = found.matchRefuted;
            _slash(id, offer, j, d, found.finderEarned ? d.challenger : address(0), found.majority);
        } else if (found.ruling == IStepJudge.Ruling.WorkerRight) {
            _failChallenge(id, offer, j, d, found.majority);
        } else {
            if (found.ruling == IStepJudge.Ruling.Pending && block.timestamp <= j.deadline) {
                revert JobMarket_NoRulingYet(id, disputeId);
            }
            _void(id, offer, j, d);
        }
    }

    // --- the judge ---

    /// @inheritdoc IJobMarket
    function penalizePanelist(bytes32 classId, address panelist, bytes32 disputeId, address caller) external {
        if (msg.sender != address(_judge)) revert JobMarket_OnlyJudge(address(_judge), msg.sender);
        // A member that has nothing left, or already left, must not keep the panel from closing.
        if (verifier(classId, panelist).bond == 0) return;
        uint256 amount = SILENCE_FACTOR * uint256(_panelFee);
        _penalize(classId, panelist, amount, Fault.PanelSilence, disputeId, caller);
    }

    // --- views ---

    /// @inheritdoc IJobMarket
    function jobId(Offer calldata offer) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OFFER_TYPEHASH, offer)));
    }

    /// @inheritdoc IJobMarket
    function job(bytes32 id) external view returns (Job memory) {
        return _jobs[id];
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
    function verdict(bytes32 id, uint16 window, address verifier_) public view returns (Verdict memory v) {
        uint256 word = _verdicts[id][window][verifier_];
        if (word >= Tags.SEALED) {
            v.seal = bytes32(word);
        } else {
            (v.kind, v.segment) = (uint8(word), uint32(word >> 8));
            (v.salt, v.revealedAt) = (uint128(word >> 40), uint40(word >> 168));
        }
    }

    /// @inheritdoc IJobMarket
    function drawnVerifiers(Offer calldata offer) external view returns (address[] memory drawn) {
        Job memory j = _jobs[jobId(offer)];
        uint256[] memory ids = DrawLib.draw(Tags.verifiersKey(j.seed), j.poolSize, _verifiersDrawn(offer, j));
        drawn = new address[](ids.length);
        uint256 count;
        for (uint256 i = 0; i < ids.length; ++i) {
            address who = verifierAt(offer.classId, ids[i]);
            uint40 since = verifier(offer.classId, who).registeredAt;
            if (since != 0 && since < j.drawnAt) drawn[count++] = who;
        }
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            mstore(drawn, count) // shortens the list to those found
        }
    }

    /// @inheritdoc IJobMarket
    function sample(Offer calldata offer, uint16 window, address verifier_) external view returns (uint256[] memory) {
        bytes32 id = jobId(offer);
        Job memory j = _jobs[id];
        Verdict memory said = verdict(id, window, verifier_);
        if (window != _drawnWindow(j) || j.poolSize == 0 || said.revealedAt == 0) {
            revert JobMarket_NotDrawn(id, window, verifier_);
        }
        (uint256 first, uint256 end) = _segments(offer, window);
        return DrawLib.draw(Tags.sampleKey(j.seed, said.salt), end - first, _sampled(offer, end - first));
    }

    /// @inheritdoc IJobMarket
    function escrowLeft(Offer calldata offer) external view returns (uint256) {
        Job memory j = _jobs[jobId(offer)];
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

    // --- how a job ends badly ---

    /// @dev Rows 5 and 6 of the table: the forfeit from the bond to the client.
    function _forfeitBond(bytes32 id, Offer calldata offer, Job memory j, State to) private returns (uint256 escrow) {
        escrow = _escrowLeft(offer, j);
        _end(id, j, to);
        _pay(offer.worker, offer.client, offer.forfeit);
        _unlock(offer.client, escrow);
        _unlock(offer.worker, offer.bond - offer.forfeit);
    }

    /// @dev Section 3.1: client, panel, finder, the rest burned; each bounded by what is left of the bond.
    /// @param finder Zero where the finder's share is not earned: it is burned then.
    function _slash(
        bytes32 id,
        Offer calldata offer,
        Job memory j,
        Dispute memory d,
        address finder,
        address[] memory panel
    ) private {
        State from = j.state;
        Shares memory s;
        s.escrowReturned = _escrowLeft(offer, j);
        uint256 spent = _totalEscrow(offer) - s.escrowReturned;
        uint256 left = offer.bond;
        s.toClient = spent < left ? spent : left;
        left -= s.toClient;
        s.toPanel = _panelShare(panel.length, left);
        left -= s.toPanel;
        s.toFinder = finder == address(0) ? 0 : left / 2;
        s.burned = left - s.toFinder;
        if (d.challenger != address(0)) s.challengeBondReturned = _challengeBond;

        _end(id, j, State.Slashed);
        _disputes[id] = d;
        _pay(offer.worker, offer.client, s.toClient);
        _unlock(offer.client, s.escrowReturned);
        _payPanel(offer.worker, panel, s.toPanel);
        _pay(offer.worker, finder, s.toFinder);
        _pay(offer.worker, BURN, s.burned);
        _unlock(d.challenger, s.challengeBondReturned);
        emit Slashed(id, from, State.Slashed, j.window, j.deadline, d.segment, finder, d.challenger, panel, s);
    }

    /// @dev Row 16: the worker was right.
    function _failChallenge(
        bytes32 id,
        Offer calldata offer,
        Job memory j,
        Dispute memory d,
        address[] memory panel
    ) private {
        uint256 toPanel = _panelShare(panel.length, _challengeBond);
        uint256 toWorker = (_challengeBond - toPanel) / 2;
        uint256 burned = _challengeBond - toPanel - toWorker;

        _resume(id, offer, j, d);
        _payPanel(d.challenger, panel, toPanel);
        _pay(d.challenger, offer.worker, toWorker);
        _pay(d.challenger, BURN, burned);
        emit ChallengeFailed(
            id,
            State.Challenged,
            State.Drawn,
            j.window,
            j.deadline,
            d.challenger,
            d.segment,
            panel,
            toPanel,
            toWorker,
            burned
        );
    }

    /// @dev Row 17: nobody knows; everybody takes back its own.
    function _void(bytes32 id, Offer calldata offer, Job memory j, Dispute memory d) private {
        uint256 escrow = _escrowLeft(offer, j);
        _end(id, j, State.Voided);
        _unlock(offer.client, escrow);
        _unlock(offer.worker, offer.bond);
        _unlock(d.challenger, _challengeBond);
        emit Voided(
            id,
            State.Challenged,
            State.Voided,
            j.window,
            j.deadline,
            d.challenger,
            escrow,
            offer.bond,
            _challengeBond
        );
    }

    /// @dev What `count` members get together, at most `left`; in equal parts, so that the log needs one number.
    function _panelShare(uint256 count, uint256 left) private view returns (uint256) {
        if (count == 0) return 0;
        uint256 each = left / count;
        return count * (each < _panelFee ? each : _panelFee);
    }

    function _payPanel(address from, address[] memory panel, uint256 total) private {
        for (uint256 i = 0; i < panel.length; ++i) _pay(from, panel[i], total / panel.length);
    }

    // --- moving a job ---

    function _move(bytes32 id, Job memory j, State to) private {
        j.state = to;
        _jobs[id] = j;
    }

    /// @dev A final state keeps the time of its end in `deadline`.
    function _end(bytes32 id, Job memory j, State to) private {
        j.deadline = uint40(block.timestamp);
        _move(id, j, to);
    }

    /// @dev Stops the challenge clock and locks the caller's bond.
    function _openDispute(bytes32 id, Job memory j, State to, uint32 segment, uint256 lifeS) private {
        _disputes[id] = Dispute({
            challenger: msg.sender,
            segment: segment,
            timeLeftS: j.deadline - uint40(block.timestamp),
            matchRefuted: false
        });
        j.deadline = _after(lifeS);
        _move(id, j, to);
        _lock(msg.sender, _challengeBond);
    }

    /// @dev Lets the challenge clock run on; at least one verdict window, so that nobody wins by moving last.
    function _resume(bytes32 id, Offer calldata offer, Job memory j, Dispute memory d) private {
        j.deadline = _after(d.timeLeftS > offer.verdictWindowS ? d.timeLeftS : offer.verdictWindowS);
        _move(id, j, State.Drawn);
    }

    // --- checks ---

    function _require(Offer calldata offer, State expected) private view returns (bytes32 id) {
        id = jobId(offer);
        State actual = _jobs[id].state;
        if (actual != expected) revert JobMarket_WrongState(id, expected, actual);
    }

    /// @dev Verdicts go on while a dispute runs: a demand must not make verifiers miss their time.
    function _requireDrawnOrDisputed(bytes32 id) private view returns (Job memory j) {
        j = _jobs[id];
        if (j.state != State.Drawn && j.state != State.Demanded && j.state != State.Challenged) {
            revert JobMarket_WrongState(id, State.Drawn, j.state);
        }
    }

    function _requireDrawn(bytes32 id, Offer calldata offer, Job memory j, address account_)
        private
        view
        returns (Verifier memory v)
    {
        v = verifier(offer.classId, account_);
        // Whoever came (perhaps to a place that became empty) after the draw was not drawn.
        bool drawn = v.registeredAt != 0 && v.registeredAt < j.drawnAt
            && DrawLib.contains(Tags.verifiersKey(j.seed), j.poolSize, _verifiersDrawn(offer, j), v.id);
        if (!drawn) revert JobMarket_NotDrawn(id, j.window, account_);
    }

    function _requireInTime(bytes32 id, uint256 deadline) private view {
        if (block.timestamp > deadline) revert JobMarket_WindowClosed(id, deadline, block.timestamp);
    }

    function _requireOverdue(bytes32 id, uint256 deadline) private view {
        if (block.timestamp <= deadline) revert JobMarket_TooEarly(id, deadline, block.timestamp);
    }

    function _checkSecret(bytes32 id, bytes32 expected, bytes32 secret, uint256 times) private pure {
        bytes32 hashed = secret;
        for (uint256 i = 0; i < times; ++i) hashed = Tags.sealOf(hashed);
        if (hashed != expected) revert JobMarket_WrongSecret(id, expected, hashed, times);
    }

    function _consumeSeal(bytes32 id, bytes32 seal) private {
        bytes32 key = keccak256(abi.encode(msg.sender, seal));
        uint256 sealedIn = _challengeSeals[key];
        if (sealedIn == 0) revert JobMarket_ChallengeNotSealed(msg.sender, seal);
        if (block.number <= sealedIn) revert JobMarket_SameBlock(id, sealedIn);
        delete _challengeSeals[key];
    }

    function _checkOpening(bytes32 id, Offer calldata offer, uint16 window, Opening calldata opening) private view {
        (uint256 place, uint256 count) = _placeInWindow(id, offer, window, opening.index);
        bytes32 leaf =
            Tags.leaf(address(this), id, offer.worker, opening.index, opening.inputRoot, opening.outputRoot);
        bytes32 root = _roots[id][window];
        if (!MerkleLib.verify(root, count, place, leaf, opening.proof)) {
            revert JobMarket_WrongOpening(id, opening.index, root);
        }
    }

    function _placeInWindow(bytes32 id, Offer calldata offer, uint16 window, uint256 index)
        private
        pure
        returns (uint256 place, uint256 count)
    {
        (uint256 first, uint256 end) = _segments(offer, window);
        if (index < first || index >= end) revert JobMarket_WrongSegment(id, index, first, end);
        return (index - first, end - first);
    }

    function _checkTerms(bytes32 id, Offer calldata offer) private view {
        _within(id, "segmentCount", offer.segmentCount, 1, type(uint32).max);
        _within(id, "segmentsPerWindow", offer.segmentsPerWindow, 1, MAX_SEGMENTS_PER_WINDOW);
        _within(id, "windows", _windows(offer), 1, MAX_WINDOWS);
        _within(id, "verifierCount", offer.verifierCount, 0, MAX_VERIFIERS);
        _within(id, "sampleCount", offer.sampleCount, 0, MAX_SAMPLES);
        _within(id, "bond", offer.bond, _minJobBond, type(uint96).max);
        _within(id, "forfeit", offer.forfeit, 0, offer.bond < offer.price ? offer.bond : offer.price);
        _within(id, "commitWindowS", offer.commitWindowS, 1, _maxWindowS);
        _within(id, "revealWindowS", offer.revealWindowS, 1, _maxWindowS);
        _within(id, "verdictWindowS", offer.verdictWindowS, _minVerdictWindowS, _maxWindowS);
        uint256 leastChallenge = 2 * uint256(offer.verdictWindowS) + 1;
        _within(id, "challengeWindowS", offer.challengeWindowS, leastChallenge, _maxWindowS);
    }

    function _within(bytes32 id, bytes32 term, uint256 value, uint256 least, uint256 most) private pure {
        if (value < least) revert JobMarket_TermOutOfBounds(id, term, value, least);
        if (value > most) revert JobMarket_TermOutOfBounds(id, term, value, most);
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
        uint256 disputeLife =
            2 * uint256(p.maxWindowS) + JUDGE_ROUNDS * (2 * uint256(p.panelWindowS) + p.maxWindowS);
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

    // --- arithmetic of an offer ---

    function _after(uint256 seconds_) private view returns (uint40) {
        return uint40(block.timestamp + seconds_);
    }

    function _judgeLifeS() private view returns (uint256) {
        return JUDGE_ROUNDS * (2 * uint256(_panelWindowS) + _maxWindowS);
    }

    function _sealUntil(Offer calldata offer, Job memory j) private pure returns (uint256) {
        return uint256(j.drawnAt) + offer.verdictWindowS;
    }

    function _revealUntil(Offer calldata offer, Job memory j) private pure returns (uint256) {
        return uint256(j.drawnAt) + 2 * uint256(offer.verdictWindowS);
    }

    /// @dev Windows of the job, rounded up.
    function _windows(Offer calldata offer) private pure returns (uint256) {
        return (uint256(offer.segmentCount) + offer.segmentsPerWindow - 1) / offer.segmentsPerWindow;
    }

    /// @dev Segments of a window: `first` to `end` - 1.
    function _segments(Offer calldata offer, uint256 window) private pure returns (uint256 first, uint256 end) {
        first = window * offer.segmentsPerWindow;
        end = first + offer.segmentsPerWindow;
        if (end > offer.segmentCount) end = offer.segmentCount;
    }

    function _sampled(Offer calldata offer, uint256 count) private pure returns (uint256) {
        return offer.sampleCount < count ? offer.sampleCount : count;
    }

    function _verifiersDrawn(Offer calldata offer, Job memory j) private pure returns (uint256) {
        return offer.verifierCount < j.poolSize ? offer.verifierCount : j.poolSize;
    }

    /// @dev The window that `seed` belongs to: the settled one until the next commitment overwrites the seed.
    function _drawnWindow(Job memory j) private pure returns (uint16) {
        bool paid = j.state == State.Accepted || j.state == State.Completed || j.state == State.Cancelled
            || j.state == State.Expired;
        return paid && j.window != 0 ? j.window - 1 : j.window;
    }

    /// @dev Price of the first `windows` windows, rounded down.
    function _pricePaid(Offer calldata offer, uint256 windows) private pure returns (uint256) {
        return uint256(offer.price) * windows / _windows(offer);
    }

    function _totalEscrow(Offer calldata offer) private pure returns (uint256) {
        return offer.price + _windows(offer) * offer.verifierCount * offer.verdictFee;
    }

    function _escrowLeft(Offer calldata offer, Job memory j) private pure returns (uint256) {
        uint256 spent = _pricePaid(offer, j.window) + uint256(j.verdictsPaid) * offer.verdictFee;
        return _totalEscrow(offer) - spent;
    }

    /// @dev kind (8 bits), segment (32), salt (128), time (40): below the top bit that marks a seal.
    function _packVerdict(uint256 kind, uint256 segment, uint256 salt) private view returns (uint256) {
        return kind | segment << 8 | salt << 40 | block.timestamp << 168;
    }
}
