// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

/// @title A source of public randomness
/// @notice The value must not be known, nor chosen by one party, before the block that reads it.
/// Warning: a proposer may skip a block whose value it dislikes; the market therefore mixes in the client's secret.
interface IBeacon {
    /// @notice The value of the current block.
    function randomness() external view returns (bytes32);
}
