// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IDisputes} from "./interfaces/IDisputes.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStepJudge} from "./interfaces/IStepJudge.sol";
import {JobRules} from "./JobRules.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import "./libraries/Errors.sol";
import {MerkleLib} from "./libraries/MerkleLib.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title When a job goes wrong
/// @notice Rows 10 to 17 of the table in docs/protocol.md section 3, the slash of 3.1 and the penalties of 3.2. A
/// verdict moves no worker's money; only what the chain can check itself, or the judge's word, does.
abstract contract Disputes is IDisputes, JobRules {
    using Accounts for Accounts.Book;

    /// @dev The worker's part of a challenger's bond for answering a demand: a tenth.
    uint256 private constant ANSWER_SHARE = 10;

    // --- penalties on drawn verifiers ---

    /// @inheritdoc IDisputes
    function penalizeSilence(IJobMarket.Offer calldata offer, address verifier_) external {
        bytes32 id = _jobId(offer);
        IJobMarket.Job memory j = _job(id);
        uint256 window = _drawnWindow(j);
        IRegistry.Verifier memory accused = _requireDrawn(id, offer, j, verifier_);
        // A dispute may have ended the job before the time to reveal was over; then nobody was silent.
        bool endedByDispute = j.state == IJobMarket.State.Slashed || j.state == IJobMarket.State.Voided;
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
        _penalize(offer.classId, verifier_, amount, IRegistry.Fault.Silence, id, msg.sender);
    }

    /// @inheritdoc IDisputes
    function penalizeFalseMatch(IJobMarket.Offer calldata offer, address verifier_) external {
        (bytes32 id, IJobMarket.Job memory j) = _require(offer, IJobMarket.State.Slashed);
        IJobMarket.Dispute memory d = _disputes[id];
        IRegistry.Verifier memory accused = _requireDrawn(id, offer, j, verifier_);
        IJobMarket.Verdict memory said = _verdict(id, j.window, verifier_);
        (uint256 first, uint256 end) = _segments(offer, j.window);
        bool guilty = d.matchRefuted && said.kind == MATCH
            && DrawLib.contains(
                Tags.sampleKey(j.seed, said.salt), end - first, _sampled(offer, end - first), d.segment - first
            );
        if (!guilty) revert JobMarket_NoFault(id, verifier_, said.kind);
        _penalize(offer.classId, verifier_, accused.bond, IRegistry.Fault.FalseMatch, id, msg.sender);
    }

    /// @inheritdoc IDisputes
    function penalizeFalseSalt(IJobMarket.Offer calldata offer, uint16 window, address verifier_) external {
        bytes32 id = _jobId(offer);
        IRegistry.Verifier memory accused = _verifiers[offer.classId][verifier_];
        IJobMarket.Verdict memory said = _verdict(id, window, verifier_);
        bool revealed = said.kind >= MATCH && said.kind <= ABSTAIN;
        // The secret is public from the exit request on; an earlier registration's salts had another secret.
        bool comparable = accused.leavingSince != 0 && said.revealedAt > accused.registeredAt;
        if (!revealed || !comparable || said.salt == Tags.salt(accused.secret, id, window)) {
            revert JobMarket_NoFault(id, verifier_, said.kind);
        }
        _penalize(offer.classId, verifier_, accused.bond, IRegistry.Fault.FalseSalt, id, msg.sender);
    }

    // --- disputes ---

    /// @inheritdoc IDisputes
    function sealChallenge(bytes32 seal) external {
        // Kept by sender: nobody can occupy another's seal.
        bytes32 key = keccak256(abi.encode(msg.sender, seal));
        if (_challengeSeals[key] != 0) revert JobMarket_ChallengeAlreadySealed(msg.sender, seal);
        _challengeSeals[key] = block.number;
        emit IJobMarket.ChallengeSealed(msg.sender, seal);
    }

    /// @inheritdoc IDisputes
    function challenge(
        IJobMarket.Offer calldata offer,
        IJobMarket.Opening calldata opening,
        bytes32 claimedRoot,
        bytes32 salt
    ) external {
        (bytes32 id, IJobMarket.Job memory j) = _require(offer, IJobMarket.State.Drawn);
        _requireInTime(id, j.deadline);
        _checkOpening(id, offer, j.window, opening);
        if (claimedRoot == opening.outputRoot) revert JobMarket_NothingDisputed(id, claimedRoot);
        _consumeSeal(id, Tags.challengeSeal(msg.sender, id, opening.index, claimedRoot, salt));

        _openDispute(id, j, IJobMarket.State.Challenged, opening.index, _judgeLifeS());
        bytes32 disputeId = Tags.disputeId(id, opening.index);
        emit IJobMarket.Challenged(
            id,
            IJobMarket.State.Drawn,
            IJobMarket.State.Challenged,
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

    /// @inheritdoc IDisputes
    function demand(IJobMarket.Offer calldata offer, uint32 index) external {
        (bytes32 id, IJobMarket.Job memory j) = _require(offer, IJobMarket.State.Drawn);
        _requireInTime(id, j.deadline);
        _placeInWindow(id, offer, j.window, index);
        // Else a worker and its friend could demand and answer in turns, and hold window and escrow for ever.
        if (_answered[id][index]) revert JobMarket_AlreadyAnswered(id, index);
        _openDispute(id, j, IJobMarket.State.Demanded, index, offer.verdictWindowS);
        emit IJobMarket.Demanded(
            id,
            IJobMarket.State.Drawn,
            IJobMarket.State.Demanded,
            j.window,
            j.deadline,
            msg.sender,
            index,
            _challengeBond
        );
    }

    /// @inheritdoc IDisputes
    function answer(IJobMarket.Offer calldata offer, IJobMarket.Opening calldata opening) external {
        (bytes32 id, IJobMarket.Job memory j) = _require(offer, IJobMarket.State.Demanded);
        IJobMarket.Dispute memory d = _disputes[id];
        _requireInTime(id, j.deadline);
        if (opening.index != d.segment) {
            revert JobMarket_WrongSegment(id, opening.index, d.segment, uint256(d.segment) + 1);
        }
        _checkOpening(id, offer, j.window, opening);

        _answered[id][d.segment] = true;
        _resume(id, offer, j, d);
        uint256 toWorker = _challengeBond / ANSWER_SHARE;
        _accounts.pay(d.challenger, offer.worker, toWorker);
        _accounts.unlock(d.challenger, _challengeBond - toWorker);
        emit IJobMarket.Answered(
            id,
            IJobMarket.State.Demanded,
            IJobMarket.State.Drawn,
            j.window,
            j.deadline,
            d.challenger,
            d.segment,
            opening.inputRoot,
            opening.outputRoot,
            opening.proof,
            toWorker,
            _challengeBond - toWorker
        );
    }

    /// @inheritdoc IDisputes
    function proveDiscontinuity(
        IJobMarket.Offer calldata offer,
        IJobMarket.Opening calldata before,
        IJobMarket.Opening calldata here
    ) external {
        bytes32 id = _jobId(offer);
        IJobMarket.Job memory j = _job(id);
        if (j.state != IJobMarket.State.Committed && j.state != IJobMarket.State.Drawn) {
            revert JobMarket_WrongState(id, IJobMarket.State.Drawn, j.state);
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

        IJobMarket.Dispute memory d =
            IJobMarket.Dispute({challenger: address(0), segment: here.index, timeLeftS: 0, matchRefuted: false});
        _slash(id, offer, j, d, msg.sender, new address[](0));
    }

    /// @inheritdoc IDisputes
    function resolve(IJobMarket.Offer calldata offer) external {
        bytes32 id = _jobId(offer);
        IJobMarket.Job memory j = _job(id);
        IJobMarket.Dispute memory d = _disputes[id];
        if (j.state == IJobMarket.State.Demanded) {
            _requireOverdue(id, j.deadline);
            _slash(id, offer, j, d, d.challenger, new address[](0));
            return;
        }
        if (j.state != IJobMarket.State.Challenged) {
            revert JobMarket_WrongState(id, IJobMarket.State.Challenged, j.state);
        }
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

    /// @inheritdoc IDisputes
    function penalizePanelist(bytes32 classId, address panelist, bytes32 disputeId, address caller) external {
        if (msg.sender != address(_judge)) revert JobMarket_OnlyJudge(address(_judge), msg.sender);
        // A member that has nothing left, or already left, must not keep the panel from closing.
        if (_verifiers[classId][panelist].bond == 0) return;
        uint256 amount = SILENCE_FACTOR * uint256(_panelFee);
        _penalize(classId, panelist, amount, IRegistry.Fault.PanelSilence, disputeId, caller);
    }

    // --- how a job ends badly ---

    /// @dev Section 3.1: client, panel, finder, the rest burned; each bounded by what is left of the bond.
    /// @param finder Zero where the finder's share is not earned: it is burned then.
    function _slash(
        bytes32 id,
        IJobMarket.Offer calldata offer,
        IJobMarket.Job memory j,
        IJobMarket.Dispute memory d,
        address finder,
        address[] memory panel
    ) private {
        IJobMarket.State from = j.state;
        IJobMarket.Shares memory s;
        s.escrowReturned = _escrowLeft(offer, j);
        uint256 spent = _escrowLeft(offer, 0, 0) - s.escrowReturned;
        uint256 left = offer.bond;
        s.toClient = spent < left ? spent : left;
        left -= s.toClient;
        s.toPanel = _panelShare(panel.length, left);
        left -= s.toPanel;
        s.toFinder = finder == address(0) ? 0 : left / 2;
        s.burned = left - s.toFinder;
        if (d.challenger != address(0)) s.challengeBondReturned = _challengeBond;

        _end(id, j, IJobMarket.State.Slashed);
        _disputes[id] = d;
        _accounts.pay(offer.worker, offer.client, s.toClient);
        _accounts.unlock(offer.client, s.escrowReturned);
        _payPanel(offer.worker, panel, s.toPanel);
        _accounts.pay(offer.worker, finder, s.toFinder);
        _accounts.pay(offer.worker, BURN, s.burned);
        _accounts.unlock(d.challenger, s.challengeBondReturned);
        emit IJobMarket.Slashed(
            id, from, IJobMarket.State.Slashed, j.window, j.deadline, d.segment, finder, d.challenger, panel, s
        );
    }

    /// @dev Row 16: the worker was right.
    function _failChallenge(
        bytes32 id,
        IJobMarket.Offer calldata offer,
        IJobMarket.Job memory j,
        IJobMarket.Dispute memory d,
        address[] memory panel
    ) private {
        uint256 toPanel = _panelShare(panel.length, _challengeBond);
        uint256 toWorker = (_challengeBond - toPanel) / 2;
        uint256 burned = _challengeBond - toPanel - toWorker;

        _resume(id, offer, j, d);
        _payPanel(d.challenger, panel, toPanel);
        _accounts.pay(d.challenger, offer.worker, toWorker);
        _accounts.pay(d.challenger, BURN, burned);
        emit IJobMarket.ChallengeFailed(
            id,
            IJobMarket.State.Challenged,
            IJobMarket.State.Drawn,
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
    function _void(bytes32 id, IJobMarket.Offer calldata offer, IJobMarket.Job memory j, IJobMarket.Dispute memory d)
        private
    {
        uint256 escrow = _escrowLeft(offer, j);
        _end(id, j, IJobMarket.State.Voided);
        _accounts.unlock(offer.client, escrow);
        _accounts.unlock(offer.worker, offer.bond);
        _accounts.unlock(d.challenger, _challengeBond);
        emit IJobMarket.Voided(
            id,
            IJobMarket.State.Challenged,
            IJobMarket.State.Voided,
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
        for (uint256 i = 0; i < panel.length; ++i) {
            _accounts.pay(from, panel[i], total / panel.length);
        }
    }

    /// @dev Stops the challenge clock and locks the caller's bond.
    function _openDispute(bytes32 id, IJobMarket.Job memory j, IJobMarket.State to, uint32 segment, uint256 lifeS)
        private
    {
        _disputes[id] = IJobMarket.Dispute({
            challenger: msg.sender,
            segment: segment,
            timeLeftS: j.deadline - uint40(block.timestamp),
            matchRefuted: false
        });
        j.deadline = _after(lifeS);
        _move(id, j, to);
        _accounts.lock(msg.sender, _challengeBond);
    }

    /// @dev Lets the challenge clock run on; at least one verdict window, so that nobody wins by moving last.
    function _resume(bytes32 id, IJobMarket.Offer calldata offer, IJobMarket.Job memory j, IJobMarket.Dispute memory d)
        private
    {
        j.deadline = _after(d.timeLeftS > offer.verdictWindowS ? d.timeLeftS : offer.verdictWindowS);
        _move(id, j, IJobMarket.State.Drawn);
    }

    function _consumeSeal(bytes32 id, bytes32 seal) private {
        bytes32 key = keccak256(abi.encode(msg.sender, seal));
        uint256 sealedIn = _challengeSeals[key];
        if (sealedIn == 0) revert JobMarket_ChallengeNotSealed(msg.sender, seal);
        if (block.number <= sealedIn) revert JobMarket_SameBlock(id, sealedIn);
        delete _challengeSeals[key];
    }

    function _checkOpening(
        bytes32 id,
        IJobMarket.Offer calldata offer,
        uint16 window,
        IJobMarket.Opening calldata opening
    ) private view {
        (uint256 place, uint256 count) = _placeInWindow(id, offer, window, opening.index);
        bytes32 leaf = Tags.leaf(address(this), id, offer.worker, opening.index, opening.inputRoot, opening.outputRoot);
        bytes32 root = _roots[id][window];
        if (!MerkleLib.verify(root, count, place, leaf, opening.proof)) {
            revert JobMarket_WrongOpening(id, opening.index, root);
        }
    }

    function _placeInWindow(bytes32 id, IJobMarket.Offer calldata offer, uint16 window, uint256 index)
        private
        pure
        returns (uint256 place, uint256 count)
    {
        (uint256 first, uint256 end) = _segments(offer, window);
        if (index < first || index >= end) revert JobMarket_WrongSegment(id, index, first, end);
        return (index - first, end - first);
    }

    /// @dev Takes `amount`, at most what is left, from a verifier's bond: half to `caller`, half burned.
    function _penalize(
        bytes32 classId,
        address verifier_,
        uint256 amount,
        IRegistry.Fault fault,
        bytes32 subject,
        address caller
    ) internal {
        IRegistry.Verifier storage accused = _verifiers[classId][verifier_];
        uint96 bond = accused.bond;
        if (bond == 0) revert Registry_NoBondLeft(classId, verifier_);
        uint96 taken = amount < bond ? uint96(amount) : bond;
        uint96 toCaller = taken / 2;
        accused.bond = bond - taken;
        _accounts.pay(verifier_, caller, toCaller);
        _accounts.pay(verifier_, BURN, taken - toCaller);
        emit IRegistry.Penalized(classId, verifier_, fault, subject, caller, toCaller, taken - toCaller);
    }
}
