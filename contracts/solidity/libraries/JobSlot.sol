// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";

/// @title A job as one word
/// @notice state (8 bits), window (16), drawnAt (40), deadline (40), poolSize (16), verdictsPaid (24), seed (112), lowest
/// first. By hand, because the compiler writes a packed struct field by field: everyday calls read and
/// write the word itself, rare ones the struct.
/// From a commitment to its draw the seed's place holds what the draw is made with: see {beforeDraw}.
library JobSlot {
    uint256 private constant WINDOW = 8;
    uint256 private constant DRAWN_AT = 24;
    uint256 private constant DEADLINE = 64;
    uint256 private constant POOL_SIZE = 104;
    uint256 private constant VERDICTS_PAID = 120;
    uint256 private constant SEED = 144;
    uint256 private constant POOL_OF_DRAW = 64; // within the seed's place

    /// @notice The word of these values. Each must fit its field; times and counts of this market do.
    function word(
        IJobMarket.State state,
        uint256 window,
        uint256 drawnAt,
        uint256 deadline,
        uint256 poolSize,
        uint256 verdictsPaid,
        uint256 seed
    ) internal pure returns (uint256) {
        return uint256(state) | window << WINDOW | drawnAt << DRAWN_AT | deadline << DEADLINE | poolSize << POOL_SIZE
            | verdictsPaid << VERDICTS_PAID | seed << SEED;
    }

    /// @notice Block and class pool of a commitment, as they wait in the seed's place.
    function beforeDraw(uint256 blockNumber, uint256 poolSize) internal pure returns (uint256) {
        return blockNumber | poolSize << POOL_OF_DRAW;
    }

    /// @notice The block of the commitment, as {beforeDraw} has put it.
    function committedIn(uint256 w) internal pure returns (uint64) {
        return uint64(w >> SEED);
    }

    /// @notice The class pool at the commitment, as {beforeDraw} has put it.
    function poolOfDraw(uint256 w) internal pure returns (uint16) {
        return uint16(w >> SEED + POOL_OF_DRAW);
    }

    function pack(IJobMarket.Job memory j) internal pure returns (uint256) {
        return word(j.state, j.window, j.drawnAt, j.deadline, j.poolSize, j.verdictsPaid, j.seed);
    }

    function unpack(uint256 w) internal pure returns (IJobMarket.Job memory) {
        return IJobMarket.Job({
            state: stateOf(w),
            window: windowOf(w),
            drawnAt: uint40(w >> DRAWN_AT),
            deadline: deadlineOf(w),
            poolSize: uint16(w >> POOL_SIZE),
            verdictsPaid: verdictsPaidOf(w),
            seed: seedOf(w)
        });
    }

    /// @notice The word one window on, in another state with another deadline; the draw stays readable until the next.
    function advance(uint256 w, IJobMarket.State state, uint256 deadline) internal pure returns (uint256) {
        uint256 kept = w & ~(uint256(type(uint8).max) | uint256(type(uint40).max) << DEADLINE);
        return (kept | uint256(state) | deadline << DEADLINE) + (1 << WINDOW);
    }

    function stateOf(uint256 w) internal pure returns (IJobMarket.State) {
        return IJobMarket.State(uint8(w));
    }

    function windowOf(uint256 w) internal pure returns (uint16) {
        return uint16(w >> WINDOW);
    }

    function deadlineOf(uint256 w) internal pure returns (uint40) {
        return uint40(w >> DEADLINE);
    }

    function verdictsPaidOf(uint256 w) internal pure returns (uint24) {
        return uint24(w >> VERDICTS_PAID);
    }

    function seedOf(uint256 w) internal pure returns (uint112) {
        return uint112(w >> SEED);
    }
}
