// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {Tags} from "./Tags.sol";

/// @title Merkle trees of fixed depth
/// @notice The twin of src/tolsey/protocol/merkle.py: tagged nodes, depth ceil(log2 n), empty places hold zero.
library MerkleLib {
    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.NODE, left, right));
    }

    /// @notice Levels between a leaf and the root of a tree over `count` >= 1 leaves.
    function depth(uint256 count) internal pure returns (uint256 levels) {
        for (uint256 reach = 1; reach < count; reach <<= 1) {
            ++levels;
        }
    }

    /// @notice Whether `leaf` stands at `index` of the tree of `count` leaves with that root.
    function verify(bytes32 root, uint256 count, uint256 index, bytes32 leaf, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        if (index >= count || proof.length != depth(count)) return false;
        bytes32 current = leaf;
        for (uint256 level = 0; level < proof.length; ++level) {
            current = index & 1 == 1 ? node(proof[level], current) : node(current, proof[level]);
            index >>= 1;
        }
        return current == root;
    }
}
