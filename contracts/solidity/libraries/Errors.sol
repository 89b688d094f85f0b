// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {IPanelJudge} from "../interfaces/IPanelJudge.sol";

// Every reason for which a call is refused. An error is interface: Python maps each to a class and a sentence, so
// each carries the two values that disagree. Times are seconds of block time, amounts base units of the token.

// --- Ledger ---

/// Thrown when more is locked or withdrawn than `account` has free.
error Ledger_InsufficientFree(address account, uint256 needed, uint256 free);
/// Thrown when a deposit brought nothing.
error Ledger_NothingArrived(address account, uint256 asked);
/// Thrown when the burn account withdraws, or somebody withdraws to zero or to the market.
error Ledger_WithdrawalRefused(address account, address to);

// --- Registry ---

/// Thrown when an account registers twice. `since` is the time of its registration.
error Registry_AlreadyRegistered(address account, uint256 since);
/// Thrown when an account that is not registered (in the class; 0 for workers) acts as if it were.
error Registry_NotRegistered(bytes32 classId, address account);
/// Thrown when somebody that has asked to leave acts as if it stayed, or asks twice.
error Registry_Leaving(address account, uint256 leavingSince);
/// Thrown when a bond is asked for without an exit request.
error Registry_NotLeaving(address account);
/// Thrown when a bond is asked for too early.
error Registry_BondLocked(address account, uint256 freeAt, uint256 nowTs);
/// Thrown when a peer id or signature has an impossible size.
error Registry_BadPeerBinding(uint256 peerIdBytes, uint256 signatureBytes);
/// Thrown when a class pool has no place left.
error Registry_PoolFull(bytes32 classId, uint256 capacity);
/// Thrown when a secret does not give the registered hash (or the hash is zero).
error Registry_WrongSecret(bytes32 expectedHash, bytes32 actualHash);
/// Thrown when a penalty finds no bond left.
error Registry_NoBondLeft(bytes32 classId, address verifier);

// --- JobMarket: construction ---

/// Thrown when a parameter of the deployment is out of bounds.
error JobMarket_BadParameter(bytes32 name, uint256 value, uint256 bound);

// --- JobMarket: calls ---

/// Thrown when the job is in another state than the call needs (`expected` is the usual one where several would do).
error JobMarket_WrongState(bytes32 jobId, IJobMarket.State expected, IJobMarket.State actual);
/// Thrown when somebody else than the named party calls.
error JobMarket_WrongCaller(bytes32 jobId, address expected, address actual);
/// Thrown when the offer's signature is not the worker's.
error JobMarket_WrongSigner(bytes32 jobId, address expected, address actual);
/// Thrown when an offer is accepted too late.
error JobMarket_OfferExpired(bytes32 jobId, uint256 expiresAt, uint256 nowTs);
/// Thrown when a term of the offer is out of bounds; `term` is the name of the field.
error JobMarket_TermOutOfBounds(bytes32 jobId, bytes32 term, uint256 value, uint256 bound);
/// Thrown when the time for a call is over.
error JobMarket_WindowClosed(bytes32 jobId, uint256 closedAt, uint256 nowTs);
/// Thrown when the time for a call has not come; it comes after `opensAfter`.
error JobMarket_TooEarly(bytes32 jobId, uint256 opensAfter, uint256 nowTs);
/// Thrown when a call must come in a later block than `blockNumber`.
error JobMarket_SameBlock(bytes32 jobId, uint256 blockNumber);
/// Thrown when a zero root is committed.
error JobMarket_ZeroRoot(bytes32 jobId);
/// Thrown when a client's secret, hashed `times`, is not the offer's seal.
error JobMarket_WrongSecret(bytes32 jobId, bytes32 expectedSeal, bytes32 actualSeal, uint256 times);
/// Thrown when an account that was not drawn for the window acts as verifier.
error JobMarket_NotDrawn(bytes32 jobId, uint256 window, address account);
/// Thrown when a verdict is sealed twice.
error JobMarket_AlreadySealed(bytes32 jobId, uint256 window, address verifier);
/// Thrown when revealed values do not give the stored seal (0: nothing is sealed).
error JobMarket_WrongSeal(bytes32 jobId, bytes32 stored, bytes32 revealed);
/// Thrown when a verdict is of an unknown kind.
error JobMarket_UnknownVerdict(uint256 kind);
/// Thrown when a segment does not belong to the window `first` .. `end` - 1.
error JobMarket_WrongSegment(bytes32 jobId, uint256 segment, uint256 first, uint256 end);
/// Thrown when an opening does not lead to the committed root.
error JobMarket_WrongOpening(bytes32 jobId, uint256 segment, bytes32 committedRoot);
/// Thrown when a segment is demanded that was answered for before: its opening stands in the log.
error JobMarket_AlreadyAnswered(bytes32 jobId, uint256 segment);
/// Thrown when the two openings show no contradiction.
error JobMarket_Continuous(bytes32 jobId, uint256 segment, bytes32 inputRoot);
/// Thrown when a challenge claims what the worker has committed.
error JobMarket_NothingDisputed(bytes32 jobId, bytes32 outputRoot);
/// Thrown when the same seal is placed twice.
error JobMarket_ChallengeAlreadySealed(address challenger, bytes32 seal);
/// Thrown when a challenge was never sealed.
error JobMarket_ChallengeNotSealed(address challenger, bytes32 seal);
/// Thrown when the judge has not ruled yet.
error JobMarket_NoRulingYet(bytes32 jobId, bytes32 disputeId);
/// Thrown when a verifier has done nothing that the called penalty is for; `kind` is that of its verdict.
error JobMarket_NoFault(bytes32 jobId, address verifier, uint256 kind);
/// Thrown when anybody but the judge calls.
error JobMarket_OnlyJudge(address judge, address caller);

// --- MerkleLib, DrawLib ---

/// Thrown when more is drawn than there is.
error DrawLib_TooMany(uint256 count, uint256 size);

// --- PanelJudge ---

/// Thrown when anybody but the market opens a dispute.
error PanelJudge_OnlyMarket(address market, address caller);
/// Thrown when a dispute is opened twice: each segment is judged once.
error PanelJudge_AlreadyOpened(bytes32 disputeId);
/// Thrown when the dispute is in another phase.
error PanelJudge_WrongPhase(bytes32 disputeId, IPanelJudge.Phase expected, IPanelJudge.Phase actual);
/// Thrown when a panel is drawn in the block in which the round began.
error PanelJudge_SameBlock(bytes32 disputeId, uint256 blockNumber);
/// Thrown when the time for a call is over.
error PanelJudge_WindowClosed(bytes32 disputeId, uint256 closedAt, uint256 nowTs);
/// Thrown when the time for a call has not come; it comes after `opensAfter`.
error PanelJudge_TooEarly(bytes32 disputeId, uint256 opensAfter, uint256 nowTs);
/// Thrown when somebody votes that does not sit on the panel.
error PanelJudge_NotOnPanel(bytes32 disputeId, address account);
/// Thrown when a vote is sealed twice.
error PanelJudge_AlreadySealed(bytes32 disputeId, address voter);
/// Thrown when revealed values do not give the stored seal (0: nothing is sealed).
error PanelJudge_WrongSeal(bytes32 disputeId, bytes32 stored, bytes32 revealed);
/// Thrown when a vote is of an unknown kind.
error PanelJudge_UnknownVote(uint256 vote);

// --- TestDollar ---

/// Thrown when the test token is deployed on a chain where money may be real.
error TestDollar_NotALocalChain(uint256 chainId);
