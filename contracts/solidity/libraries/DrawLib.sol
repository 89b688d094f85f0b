// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {DrawLib_TooMany} from "./Errors.sol";
import {Tags} from "./Tags.sol";

/// @title Drawing without repetition
/// @notice docs/protocol.md section 2.1: a partial Fisher-Yates shuffle of 0 .. size - 1. The twin of
/// src/tolsey/protocol/sampling.py. The remainder favours small places by less than size / 2^256, that is not at all.
library DrawLib {
    /// @notice A shuffle that is carried on draw by draw.
    /// @param moved moved[p] is 0 while place p holds p, else 1 + what it holds.
    struct Deck {
        bytes32 key;
        uint256 size;
        uint256 drawn;
        uint256[] moved;
    }

    function open(bytes32 key, uint256 size) internal pure returns (Deck memory deck) {
        deck.key = key;
        deck.size = size;
        deck.moved = new uint256[](size);
    }

    /// @notice The next place drawn.
    function next(Deck memory deck) internal pure returns (uint256 drawn) {
        uint256 i = deck.drawn++;
        uint256 r = _partner(deck.key, i, deck.size);
        drawn = _held(deck, r);
        deck.moved[r] = _held(deck, i) + 1;
    }

    /// @notice The first `count` places drawn. Memory grows with `size`: for views and small pools.
    function draw(bytes32 key, uint256 size, uint256 count) internal pure returns (uint256[] memory places) {
        if (count > size) revert DrawLib_TooMany(count, size);
        Deck memory deck = open(key, size);
        places = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            places[i] = next(deck);
        }
    }

    /// @notice Whether `place` is among the first `count` drawn; follows that one place through the exchanges, so
    /// it needs no memory and `count` hashes.
    function contains(bytes32 key, uint256 size, uint256 count, uint256 place) internal pure returns (bool) {
        if (count > size) revert DrawLib_TooMany(count, size);
        if (place >= size) return false;
        for (uint256 i = 0; i < count; ++i) {
            uint256 r = _partner(key, i, size);
            if (r == place) return true; // it comes to place i and stays
            if (i == place) place = r; // it makes room
        }
        return false;
    }

    function _partner(bytes32 key, uint256 i, uint256 size) private pure returns (uint256) {
        return i + uint256(keccak256(abi.encode(Tags.DRAW, key, i))) % (size - i);
    }

    function _held(Deck memory deck, uint256 place) private pure returns (uint256) {
        uint256 moved = deck.moved[place];
        return moved == 0 ? place : moved - 1;
    }
}
