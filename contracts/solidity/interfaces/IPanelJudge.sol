// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IStepJudge} from "./IStepJudge.sol";

/// @title A judge made of verifiers
/// @notice A panel of up to PANEL_SIZE verifiers of the job's class runs the disputed segment again and votes by
/// commit-reveal. No majority: another panel, MAX_ROUNDS in all, then no ruling. Every phase ends by a call open to
/// anyone.
interface IPanelJudge is IStepJudge {
    /// @notice Drawing waits for {drawPanel}, Voting for votes and then {close}, Closed is final.
    enum Phase {
        None,
        Drawing,
        Voting,
        Closed
    }

    /// @param phase See {Phase}.
    /// @param round 0, 1 or 2.
    /// @param poolSize Class pool when the round began.
    /// @param phaseSince When the phase began.
    /// @param phaseBlock Block in which the phase began.
    /// @param ruling Pending until Closed.
    /// @param finderEarned See {Outcome}.
    /// @param matchRefuted See {Outcome}.
    struct Case {
        Phase phase;
        uint8 round;
        uint16 poolSize;
        uint40 phaseSince;
        uint64 phaseBlock;
        Ruling ruling;
        bool finderEarned;
        bool matchRefuted;
    }

    event DisputeOpened(bytes32 indexed disputeId, bytes32 indexed jobId, Claim claim);
    /// @notice A round waits for its panel, which must be drawn in a later block and until `drawUntil`.
    event RoundOpened(bytes32 indexed disputeId, uint8 round, uint16 poolSize, uint40 drawUntil);
    /// @notice Votes are sealed until `sealUntil` and then revealed until `revealUntil`.
    /// @param beacon What the panel was drawn with: the market's beacon and the hash of the block of {RoundOpened}.
    event PanelDrawn(
        bytes32 indexed disputeId, uint8 round, bytes32 beacon, address[] panel, uint40 sealUntil, uint40 revealUntil
    );
    event VoteSealed(bytes32 indexed disputeId, address indexed voter, uint8 round, bytes32 seal);
    event VoteRevealed(bytes32 indexed disputeId, address indexed voter, uint8 round, uint8 vote);
    event DisputeClosed(
        bytes32 indexed disputeId, Ruling ruling, bool finderEarned, bool matchRefuted, address[] majority
    );

    /// @notice Draws the round's panel. In a later block than the round's begin, not later than its `drawUntil`.
    /// Anyone.
    /// Emits {PanelDrawn}, or {RoundOpened} or {DisputeClosed} where nobody can sit.
    function drawPanel(bytes32 disputeId) external;

    /// @notice Seals the caller's vote. The caller sits on the panel; once, in time. Emits {VoteSealed}.
    function sealVote(bytes32 disputeId, bytes32 seal) external;

    /// @notice Opens the caller's seal. `vote`: 1 worker, 2 challenger, 3 neither, 4 unavailable, 5 abstain. In time.
    /// Emits {VoteRevealed}.
    function revealVote(bytes32 disputeId, uint8 vote, bytes32 salt) external;

    /// @notice Ends a round: past the time to reveal (or once all have), or past `drawUntil` without a panel. Anyone.
    /// The caller gets half of what silent members lose. Emits {DisputeClosed} or {RoundOpened}.
    function close(bytes32 disputeId) external;

    function caseOf(bytes32 disputeId) external view returns (Case memory);

    function claimOf(bytes32 disputeId) external view returns (Claim memory);

    /// @notice The panel of the current round; empty before it is drawn.
    function panelOf(bytes32 disputeId) external view returns (address[] memory);

    /// @notice The seal of a voter in a round, and its vote once revealed (0 before).
    function voteOf(bytes32 disputeId, uint8 round, address voter) external view returns (bytes32 seal, uint8 vote);
}
