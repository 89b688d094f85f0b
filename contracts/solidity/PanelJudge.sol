// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IPanelJudge} from "./interfaces/IPanelJudge.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStepJudge} from "./interfaces/IStepJudge.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import "./libraries/Errors.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title A judge made of verifiers
/// @notice Holds no money: it asks the market to fine its silent members, and the market pays by its ruling.
/// A dispute cannot stick: Drawing ends by {drawPanel} or {close}, Voting by {close}, both open to anyone.
contract PanelJudge is IPanelJudge {
    using DrawLib for DrawLib.Deck;

    uint256 public constant PANEL_SIZE = 3;
    uint256 public constant MAX_ROUNDS = 3;
    /// @notice Places of the pool looked at for one panel, so that a pool full of leavers cannot cost a block.
    uint256 public constant MAX_SCAN = 256;
    /// @dev As in the market: what a silent member loses, in panel fees. Whoever has less left is not drawn.
    uint256 private constant SILENCE_FACTOR = 2;

    uint8 private constant WORKER = 1;
    uint8 private constant CHALLENGER = 2;
    uint8 private constant NEITHER = 3;
    uint8 private constant UNAVAILABLE = 4;
    uint8 private constant ABSTAIN = 5;

    /// @notice The one market that this judge serves.
    address public immutable market;

    struct Ballot {
        bytes32 seal;
        uint8 vote;
    }

    mapping(bytes32 disputeId => Case) private _cases;
    mapping(bytes32 disputeId => Claim) private _claims;
    mapping(bytes32 disputeId => address[]) private _panels;
    mapping(bytes32 disputeId => mapping(uint256 round => mapping(address voter => Ballot))) private _ballots;
    mapping(bytes32 disputeId => address[]) private _majorities;

    constructor(address market_) {
        market = market_;
    }

    /// @inheritdoc IStepJudge
    function open(Claim calldata claim) external {
        if (msg.sender != market) revert PanelJudge_OnlyMarket(market, msg.sender);
        bytes32 id = claim.disputeId;
        if (_cases[id].phase != Phase.None) revert PanelJudge_AlreadyOpened(id);
        _claims[id] = claim;
        emit DisputeOpened(id, claim.jobId, claim);
        _openRound(id, 0);
    }

    /// @inheritdoc IPanelJudge
    function drawPanel(bytes32 disputeId) external {
        Case memory c = _require(disputeId, Phase.Drawing);
        if (block.number <= c.phaseBlock) revert PanelJudge_SameBlock(disputeId, c.phaseBlock);
        IJobMarket.Params memory p = IJobMarket(market).params();
        uint256 drawUntil = uint256(c.phaseSince) + p.maxWindowS;
        if (block.timestamp > drawUntil) {
            revert PanelJudge_WindowClosed(disputeId, drawUntil, block.timestamp);
        }
        // A beacon may be constant; the hash of the block that opened the round was unknown to whoever opened it.
        bytes32 beacon = Hashes.efficientKeccak256(p.beacon.randomness(), blockhash(c.phaseBlock));
        address[] memory panel = _findPanel(disputeId, c, beacon, SILENCE_FACTOR * uint256(p.panelFee));
        if (panel.length == 0) {
            // Nobody in the whole pool can sit: nor will they in the next round.
            if (c.poolSize <= MAX_SCAN) _close(disputeId, c, Ruling.None, new address[](0));
            else _nextRound(disputeId, c);
            return;
        }
        (c.phase, c.phaseSince, c.phaseBlock) = (Phase.Voting, uint40(block.timestamp), uint64(block.number));
        _cases[disputeId] = c;
        _panels[disputeId] = panel;
        emit PanelDrawn(
            disputeId,
            c.round,
            beacon,
            panel,
            uint40(block.timestamp + p.panelWindowS),
            uint40(block.timestamp + 2 * uint256(p.panelWindowS))
        );
    }

    /// @inheritdoc IPanelJudge
    function sealVote(bytes32 disputeId, bytes32 seal) external {
        Case memory c = _require(disputeId, Phase.Voting);
        uint256 sealUntil = uint256(c.phaseSince) + _panelWindowS();
        if (block.timestamp > sealUntil) {
            revert PanelJudge_WindowClosed(disputeId, sealUntil, block.timestamp);
        }
        if (!_sits(disputeId, msg.sender)) revert PanelJudge_NotOnPanel(disputeId, msg.sender);
        Ballot storage own = _ballots[disputeId][c.round][msg.sender];
        if (own.seal != 0) revert PanelJudge_AlreadySealed(disputeId, msg.sender);
        own.seal = seal;
        emit VoteSealed(disputeId, msg.sender, c.round, seal);
    }

    /// @inheritdoc IPanelJudge
    function revealVote(bytes32 disputeId, uint8 vote, bytes32 salt) external {
        Case memory c = _require(disputeId, Phase.Voting);
        uint256 windowS = _panelWindowS();
        uint256 sealUntil = uint256(c.phaseSince) + windowS;
        if (block.timestamp <= sealUntil) revert PanelJudge_TooEarly(disputeId, sealUntil, block.timestamp);
        if (block.timestamp > sealUntil + windowS) {
            revert PanelJudge_WindowClosed(disputeId, sealUntil + windowS, block.timestamp);
        }
        if (vote < WORKER || vote > ABSTAIN) revert PanelJudge_UnknownVote(vote);
        Ballot storage own = _ballots[disputeId][c.round][msg.sender];
        bytes32 revealed = Tags.voteSeal(disputeId, c.round, msg.sender, vote, salt);
        if (own.seal != revealed) revert PanelJudge_WrongSeal(disputeId, own.seal, revealed);
        own.vote = vote;
        emit VoteRevealed(disputeId, msg.sender, c.round, vote);
    }

    /// @inheritdoc IPanelJudge
    function close(bytes32 disputeId) external {
        Case memory c = _cases[disputeId];
        if (c.phase == Phase.Drawing) {
            uint256 drawUntil = uint256(c.phaseSince) + IJobMarket(market).params().maxWindowS;
            if (block.timestamp <= drawUntil) revert PanelJudge_TooEarly(disputeId, drawUntil, block.timestamp);
            _nextRound(disputeId, c);
            return;
        }
        if (c.phase != Phase.Voting) revert PanelJudge_WrongPhase(disputeId, Phase.Voting, c.phase);
        address[] memory panel = _panels[disputeId];
        (uint256[] memory votes, address[] memory silent) = _count(disputeId, c.round, panel);
        uint256 revealUntil = uint256(c.phaseSince) + 2 * _panelWindowS();
        if (silent.length != 0 && block.timestamp <= revealUntil) {
            revert PanelJudge_TooEarly(disputeId, revealUntil, block.timestamp);
        }
        _rule(disputeId, c, panel, votes);
        bytes32 classId = _claims[disputeId].classId;
        for (uint256 i = 0; i < silent.length; ++i) {
            IDisputes(market).penalizePanelist(classId, silent[i], disputeId, msg.sender);
        }
    }

    /// @inheritdoc IStepJudge
    function outcome(bytes32 disputeId) external view returns (Outcome memory) {
        Case memory c = _cases[disputeId];
        return Outcome({
            ruling: c.ruling,
            finderEarned: c.finderEarned,
            matchRefuted: c.matchRefuted,
            majority: _majorities[disputeId]
        });
    }

    /// @inheritdoc IPanelJudge
    function caseOf(bytes32 disputeId) external view returns (Case memory) {
        return _cases[disputeId];
    }

    /// @inheritdoc IPanelJudge
    function claimOf(bytes32 disputeId) external view returns (Claim memory) {
        return _claims[disputeId];
    }

    /// @inheritdoc IPanelJudge
    function panelOf(bytes32 disputeId) external view returns (address[] memory) {
        return _panels[disputeId];
    }

    /// @inheritdoc IPanelJudge
    function voteOf(bytes32 disputeId, uint8 round, address voter) external view returns (bytes32 seal, uint8 vote) {
        Ballot memory b = _ballots[disputeId][round][voter];
        return (b.seal, b.vote);
    }

    // --- rounds ---

    function _openRound(bytes32 disputeId, uint8 round) private {
        uint16 size = uint16(IRegistry(market).poolSize(_claims[disputeId].classId));
        Case storage c = _cases[disputeId];
        // The size is fixed before the beacon is known, so that nobody shifts a panel by registering after.
        (c.phase, c.round, c.poolSize) = (Phase.Drawing, round, size);
        (c.phaseSince, c.phaseBlock) = (uint40(block.timestamp), uint64(block.number));
        uint40 drawUntil = uint40(block.timestamp + IJobMarket(market).params().maxWindowS);
        emit RoundOpened(disputeId, round, size, drawUntil);
    }

    function _nextRound(bytes32 disputeId, Case memory c) private {
        if (uint256(c.round) + 1 == MAX_ROUNDS) {
            _close(disputeId, c, Ruling.None, new address[](0));
        } else {
            delete _panels[disputeId];
            _openRound(disputeId, c.round + 1);
        }
    }

    function _close(bytes32 disputeId, Case memory c, Ruling ruling, address[] memory majority) private {
        (c.phase, c.ruling) = (Phase.Closed, ruling);
        _cases[disputeId] = c;
        _majorities[disputeId] = majority;
        emit DisputeClosed(disputeId, ruling, c.finderEarned, c.matchRefuted, majority);
    }

    /// @dev More than half of the votes that do not abstain decides; 2, 3 and 4 all say that the worker is wrong.
    function _rule(bytes32 disputeId, Case memory c, address[] memory panel, uint256[] memory votes) private {
        uint256 right = votes[WORKER];
        uint256 wrong = votes[CHALLENGER] + votes[NEITHER] + votes[UNAVAILABLE];
        if (right == wrong) {
            _nextRound(disputeId, c);
            return;
        }
        bool workerWrong = wrong > right;
        if (workerWrong) {
            c.finderEarned = votes[CHALLENGER] + votes[UNAVAILABLE] > votes[NEITHER];
            c.matchRefuted = (votes[CHALLENGER] + votes[NEITHER]) * 2 > right + wrong;
        }
        address[] memory majority = new address[](workerWrong ? wrong : right);
        uint256 found;
        for (uint256 i = 0; i < panel.length; ++i) {
            uint8 vote = _ballots[disputeId][c.round][panel[i]].vote;
            bool sidesWithMajority = workerWrong ? vote > WORKER && vote < ABSTAIN : vote == WORKER;
            if (sidesWithMajority) majority[found++] = panel[i];
        }
        _close(disputeId, c, workerWrong ? Ruling.WorkerWrong : Ruling.WorkerRight, majority);
    }

    /// @dev Votes by kind, and who revealed none.
    function _count(bytes32 disputeId, uint256 round, address[] memory panel)
        private
        view
        returns (uint256[] memory votes, address[] memory silent)
    {
        votes = new uint256[](ABSTAIN + 1);
        for (uint256 i = 0; i < panel.length; ++i) {
            ++votes[_ballots[disputeId][round][panel[i]].vote];
        }
        silent = new address[](votes[0]);
        uint256 found;
        for (uint256 i = 0; i < panel.length; ++i) {
            if (_ballots[disputeId][round][panel[i]].vote == 0) silent[found++] = panel[i];
        }
    }

    // --- the panel ---

    function _findPanel(bytes32 disputeId, Case memory c, bytes32 beacon, uint256 leastBond)
        private
        view
        returns (address[] memory panel)
    {
        Claim memory claim = _claims[disputeId];
        DrawLib.Deck memory deck = DrawLib.open(Tags.panelKey(disputeId, c.round, beacon), c.poolSize);
        address[] memory found = new address[](PANEL_SIZE);
        uint256 count;
        uint256 scan = c.poolSize < MAX_SCAN ? c.poolSize : MAX_SCAN;
        for (uint256 i = 0; i < scan && count < PANEL_SIZE; ++i) {
            address who = IRegistry(market).verifierAt(claim.classId, deck.next());
            if (_maySit(claim, who, c.phaseSince, leastBond)) found[count++] = who;
        }
        if (count != 0 && count % 2 == 0) --count; // an even panel would tie
        panel = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            panel[i] = found[i];
        }
    }

    function _maySit(Claim memory claim, address who, uint40 before, uint256 leastBond) private view returns (bool) {
        if (who == address(0) || who == claim.worker || who == claim.client || who == claim.challenger) {
            return false;
        }
        IRegistry.Verifier memory v = IRegistry(market).verifier(claim.classId, who);
        return v.leavingSince == 0 && v.registeredAt < before && v.bond >= leastBond;
    }

    function _sits(bytes32 disputeId, address who) private view returns (bool) {
        address[] memory panel = _panels[disputeId];
        for (uint256 i = 0; i < panel.length; ++i) {
            if (panel[i] == who) return true;
        }
        return false;
    }

    function _require(bytes32 disputeId, Phase expected) private view returns (Case memory c) {
        c = _cases[disputeId];
        if (c.phase != expected) revert PanelJudge_WrongPhase(disputeId, expected, c.phase);
    }

    function _panelWindowS() private view returns (uint256) {
        return IJobMarket(market).params().panelWindowS;
    }
}
