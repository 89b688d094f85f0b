// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import {
    JobMarket_NotDrawn,
    JobMarket_TooEarly,
    JobMarket_WindowClosed,
    JobMarket_WrongState
} from "./libraries/Errors.sol";
import {JobSlot} from "./libraries/JobSlot.sol";
import {Tags} from "./libraries/Tags.sol";
import {MarketStorage} from "./MarketStorage.sol";

/// @title What both halves of the market know about a job
/// @notice Its name, the checks that its calls share, and the arithmetic of its offer.
/// Next in the flow: JobMarket.sol (a job's life), Disputes.sol (when it goes wrong).
abstract contract JobRules is MarketStorage {
    /// @dev Kinds of a verdict (1 match, 2 mismatch, 3 unavailable, 4 abstain) and what silence leaves.
    uint256 internal constant MATCH = 1;
    uint256 internal constant ABSTAIN = 4;
    uint256 internal constant SILENT = 5;

    bytes32 public constant OFFER_TYPEHASH = keccak256(
        "Offer(bytes32 specHash,bytes32 classId,bytes32 initialRoot,bytes32 clientSeal,address client,address worker,"
        "uint96 price,uint96 bond,uint96 forfeit,uint96 verdictFee,uint32 segmentCount,uint32 segmentsPerWindow,"
        "uint8 verifierCount,uint16 sampleCount,uint32 commitWindowS,uint32 revealWindowS,uint32 verdictWindowS,"
        "uint32 challengeWindowS,uint64 nonce,uint40 expiresAt)"
    );

    /// @notice The EIP-712 digest of the offer.
    /// @dev An offer in calldata is laid out as EIP-712 encodes it, so its words are hashed as they stand; encoding them
    /// anew costs 2,100 gas in every call. Bytes that are no offer (a number too large for its type) give a digest that
    /// no worker signed, and reading such a field reverts.
    function _jobId(IJobMarket.Offer calldata offer) internal view returns (bytes32) {
        bytes32 typeHash = OFFER_TYPEHASH;
        bytes32 structHash;
        assembly ("memory-safe") {
            let words := mload(64)
            mstore(words, typeHash)
            calldatacopy(add(words, 32), offer, 640) // 20 fields
            structHash := keccak256(words, 672)
        }
        return _hashTypedDataV4(structHash);
    }

    /// @notice A drawn verifier's word on a window.
    function _verdict(bytes32 id, uint16 window, address verifier_)
        internal
        view
        returns (IJobMarket.Verdict memory v)
    {
        uint256 word = _verdicts[id][window][verifier_];
        if (word >= Tags.SEALED) {
            v.seal = bytes32(word);
        } else {
            (v.kind, v.segment) = (uint8(word), uint32(word >> 8));
            (v.salt, v.revealedAt) = (uint128(word >> 40), uint40(word >> 168));
        }
    }

    // --- moving a job ---

    function _job(bytes32 id) internal view returns (IJobMarket.Job memory) {
        return JobSlot.unpack(_jobs[id]);
    }

    function _move(bytes32 id, IJobMarket.Job memory j, IJobMarket.State to) internal {
        j.state = to;
        _jobs[id] = JobSlot.pack(j);
    }

    /// @dev A final state keeps the time of its end in `deadline`.
    function _end(bytes32 id, IJobMarket.Job memory j, IJobMarket.State to) internal {
        j.deadline = uint40(block.timestamp);
        _move(id, j, to);
    }

    // --- checks ---

    function _require(IJobMarket.Offer calldata offer, IJobMarket.State expected)
        internal
        view
        returns (bytes32 id, IJobMarket.Job memory j)
    {
        id = _jobId(offer);
        j = _job(id);
        if (j.state != expected) revert JobMarket_WrongState(id, expected, j.state);
    }

    /// @dev As {_require}, without the struct.
    function _requireWord(IJobMarket.Offer calldata offer, IJobMarket.State expected)
        internal
        view
        returns (bytes32 id, uint256 job_)
    {
        id = _jobId(offer);
        job_ = _jobs[id];
        if (JobSlot.stateOf(job_) != expected) revert JobMarket_WrongState(id, expected, JobSlot.stateOf(job_));
    }

    function _requireDrawn(bytes32 id, IJobMarket.Offer calldata offer, IJobMarket.Job memory j, address account_)
        internal
        view
        returns (IRegistry.Verifier memory v)
    {
        v = _verifiers[offer.classId][account_];
        // Whoever came (perhaps to a place that became empty) after the draw was not drawn.
        bool drawn = v.registeredAt != 0 && v.registeredAt < j.drawnAt
            && DrawLib.contains(Tags.verifiersKey(j.seed), j.poolSize, _verifiersDrawn(offer, j), v.id);
        if (!drawn) revert JobMarket_NotDrawn(id, j.window, account_);
    }

    function _requireInTime(bytes32 id, uint256 deadline) internal view {
        if (block.timestamp > deadline) revert JobMarket_WindowClosed(id, deadline, block.timestamp);
    }

    function _requireOverdue(bytes32 id, uint256 deadline) internal view {
        if (block.timestamp <= deadline) revert JobMarket_TooEarly(id, deadline, block.timestamp);
    }

    // --- arithmetic of an offer ---

    function _after(uint256 seconds_) internal view returns (uint40) {
        return uint40(block.timestamp + seconds_);
    }

    function _judgeLifeS() internal view returns (uint256) {
        return JUDGE_ROUNDS * (2 * uint256(_panelWindowS) + _maxWindowS);
    }

    function _sealUntil(IJobMarket.Offer calldata offer, IJobMarket.Job memory j) internal pure returns (uint256) {
        return uint256(j.drawnAt) + offer.verdictWindowS;
    }

    function _revealUntil(IJobMarket.Offer calldata offer, IJobMarket.Job memory j) internal pure returns (uint256) {
        return uint256(j.drawnAt) + 2 * uint256(offer.verdictWindowS);
    }

    /// @dev Windows of the job, rounded up.
    function _windows(IJobMarket.Offer calldata offer) internal pure returns (uint256) {
        uint256 perWindow = offer.segmentsPerWindow;
        unchecked {
            return (offer.segmentCount + perWindow - 1) / perWindow; // 32-bit terms; 0 / 0 still panics
        }
    }

    /// @dev Segments of a window: `first` to `end` - 1.
    function _segments(IJobMarket.Offer calldata offer, uint256 window)
        internal
        pure
        returns (uint256 first, uint256 end)
    {
        first = window * offer.segmentsPerWindow;
        end = first + offer.segmentsPerWindow;
        if (end > offer.segmentCount) end = offer.segmentCount;
    }

    function _sampled(IJobMarket.Offer calldata offer, uint256 count) internal pure returns (uint256) {
        return offer.sampleCount < count ? offer.sampleCount : count;
    }

    function _verifiersDrawn(IJobMarket.Offer calldata offer, IJobMarket.Job memory j) internal pure returns (uint256) {
        return offer.verifierCount < j.poolSize ? offer.verifierCount : j.poolSize;
    }

    /// @dev The window that `seed` belongs to: the settled one until the next commitment overwrites the seed.
    function _drawnWindow(IJobMarket.Job memory j) internal pure returns (uint16) {
        bool paid = j.state == IJobMarket.State.Accepted || j.state == IJobMarket.State.Completed
            || j.state == IJobMarket.State.Cancelled || j.state == IJobMarket.State.Expired;
        return paid && j.window != 0 ? j.window - 1 : j.window;
    }

    /// @dev Client's units that a job still holds after so many windows and verdicts paid.
    function _escrowLeft(IJobMarket.Offer calldata offer, uint256 windowsPaid, uint256 verdictsPaid)
        internal
        pure
        returns (uint256)
    {
        uint256 windows = _windows(offer);
        uint256 price = offer.price;
        uint256 verdictFee = offer.verdictFee;
        uint256 verdicts = windows * offer.verifierCount - verdictsPaid;
        unchecked {
            // Products of a 96-bit price and at most 24 bits; and windowsPaid is at most windows.
            return price - price * windowsPaid / windows + verdicts * verdictFee;
        }
    }

    function _escrowLeft(IJobMarket.Offer calldata offer, IJobMarket.Job memory j) internal pure returns (uint256) {
        return _escrowLeft(offer, j.window, j.verdictsPaid);
    }

    /// @dev kind (8 bits), segment (32), salt (128), time (40): below the top bit that marks a seal.
    function _packVerdict(uint256 kind, uint256 segment, uint256 salt) internal view returns (uint256) {
        return kind | segment << 8 | salt << 40 | block.timestamp << 168;
    }
}
