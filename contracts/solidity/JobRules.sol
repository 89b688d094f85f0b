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
    function _jobId(IJobMarket.Offer calldata offer) internal view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OFFER_TYPEHASH, offer)));
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

    function _move(bytes32 id, IJobMarket.Job memory j, IJobMarket.State to) internal {
        j.state = to;
        _jobs[id] = j;
    }

    /// @dev A final state keeps the time of its end in `deadline`.
    function _end(bytes32 id, IJobMarket.Job memory j, IJobMarket.State to) internal {
        j.deadline = uint40(block.timestamp);
        _move(id, j, to);
    }

    // --- checks ---

    function _require(IJobMarket.Offer calldata offer, IJobMarket.State expected) internal view returns (bytes32 id) {
        id = _jobId(offer);
        IJobMarket.State actual = _jobs[id].state;
        if (actual != expected) revert JobMarket_WrongState(id, expected, actual);
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
        return (uint256(offer.segmentCount) + offer.segmentsPerWindow - 1) / offer.segmentsPerWindow;
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

    /// @dev Price of the first `windows` windows, rounded down.
    function _pricePaid(IJobMarket.Offer calldata offer, uint256 windows) internal pure returns (uint256) {
        return uint256(offer.price) * windows / _windows(offer);
    }

    function _totalEscrow(IJobMarket.Offer calldata offer) internal pure returns (uint256) {
        return offer.price + _windows(offer) * offer.verifierCount * offer.verdictFee;
    }

    function _escrowLeft(IJobMarket.Offer calldata offer, IJobMarket.Job memory j) internal pure returns (uint256) {
        uint256 spent = _pricePaid(offer, j.window) + uint256(j.verdictsPaid) * offer.verdictFee;
        return _totalEscrow(offer) - spent;
    }

    /// @dev kind (8 bits), segment (32), salt (128), time (40): below the top bit that marks a seal.
    function _packVerdict(uint256 kind, uint256 segment, uint256 salt) internal view returns (uint256) {
        return kind | segment << 8 | salt << 40 | block.timestamp << 168;
    }
}
