// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "./IJobMarket.sol";

/// @title Disputes and penalties: the rare half of the market
/// @notice Part of the same contract and address as {IJobMarket}, which declares its types and the events of jobs.
interface IDisputes {
    // --- penalties on drawn verifiers: half to the caller, half burned ---

    /// @notice Takes 2 * verdictFee (at most the bond) from a drawn verifier that revealed nothing, unless it was
    /// leaving at the draw.
    /// - the window's time to reveal has passed while the job lived; not later than the next commitment
    /// Emits {IRegistry.Penalized}.
    function penalizeSilence(IJobMarket.Offer calldata offer, address verifier) external;

    /// @notice Takes the whole bond of a verifier that said match although the judge refuted a segment of its sample.
    /// State Slashed. Emits {IRegistry.Penalized}.
    function penalizeFalseMatch(IJobMarket.Offer calldata offer, address verifier) external;

    /// @notice Takes the whole bond of a leaving verifier whose revealed salt for a window is not the one its secret
    /// gives.
    /// Emits {IRegistry.Penalized}.
    function penalizeFalseSalt(IJobMarket.Offer calldata offer, uint16 window, address verifier) external;

    // --- disputes ---

    /// @notice Announces a challenge without saying of what. Must stand in an earlier block than {challenge}. Emits
    /// {IJobMarket.ChallengeSealed}.
    function sealChallenge(bytes32 seal) external;

    /// @notice Disputes a segment of the window: `claimedRoot` is right, not the opened output root (0: nobody serves
    /// it).
    /// - state Drawn, in time; sealed by the caller in an earlier block; `challengeBond` free; never judged before
    /// Emits {IJobMarket.Challenged}.
    function challenge(
        IJobMarket.Offer calldata offer,
        IJobMarket.Opening calldata opening,
        bytes32 claimedRoot,
        bytes32 salt
    ) external;

    /// @notice Makes the worker open a segment of the window that it does not serve.
    /// - state Drawn, in time; `challengeBond` free; not answered before. Emits {IJobMarket.Demanded}.
    function demand(IJobMarket.Offer calldata offer, uint32 index) external;

    /// @notice Opens the demanded segment. State Demanded, in time. Anyone who has the opening. Emits
    /// {IJobMarket.Answered}.
    function answer(IJobMarket.Offer calldata offer, IJobMarket.Opening calldata opening) external;

    /// @notice Slashes a worker whose segment `here` does not start where the one before it ended (segment 0: at
    /// initialRoot).
    /// - state Committed or Drawn; `here` in the current window, `before` the segment before it (ignored for segment 0)
    /// Emits {IJobMarket.Slashed}.
    function proveDiscontinuity(
        IJobMarket.Offer calldata offer,
        IJobMarket.Opening calldata before,
        IJobMarket.Opening calldata here
    ) external;

    /// @notice Ends a dispute: an unanswered demand past its deadline, or a challenge that the judge has ruled on
    /// (past the deadline also one it has not: then the job is void). Anyone.
    /// Emits {IJobMarket.Slashed}, {IJobMarket.ChallengeFailed} or {IJobMarket.Voided}.
    function resolve(IJobMarket.Offer calldata offer) external;

    // --- the judge ---

    /// @notice Takes 2 * panelFee (at most the bond) from a panel member that did not vote; half goes to `caller`.
    /// - the caller is the judge. Emits {IRegistry.Penalized}.
    function penalizePanelist(bytes32 classId, address panelist, bytes32 disputeId, address caller) external;
}
