// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IBeacon} from "./interfaces/IBeacon.sol";

/// @title The chain's own randomness
/// @notice Warning: a proposer biases this by one bit per slot it holds and skips; a sequencer of a rollup may choose
/// it outright; some chains return a constant. It is sound only together with a secret, which the market mixes in.
contract PrevrandaoBeacon is IBeacon {
    /// @inheritdoc IBeacon
    function randomness() external view returns (bytes32) {
        return bytes32(block.prevrandao);
    }
}
