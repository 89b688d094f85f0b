// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @title Domain tags and the hashes made with them
/// @notice docs/protocol.md section 2; the twin of src/tolsey/protocol/encoding.py.
library Tags {
    bytes32 internal constant NODE = "tolsey/node/1";
    bytes32 internal constant LEAF = "tolsey/leaf/1";
    bytes32 internal constant SEED = "tolsey/seed/1";
    bytes32 internal constant SEAL = "tolsey/seal/1";
    bytes32 internal constant DRAW = "tolsey/draw/1";

    /// @dev Purposes of a draw, so that no two draws share a key.
    uint256 internal constant DRAW_VERIFIERS = 1;
    uint256 internal constant DRAW_SAMPLE = 2;
    uint256 internal constant DRAW_PANEL = 3;

    /// @dev A verdict's seal has the top bit set, which tells it from a revealed verdict in the same slot.
    uint256 internal constant SEALED = 1 << 255;

    /// @notice H(x) of the seal chain and of a verifier's secret.
    /// @dev In scratch space: a chain may have 65,535 links, and memory that grew with each would cost the square.
    function sealOf(bytes32 secret) internal pure returns (bytes32) {
        return Hashes.efficientKeccak256(SEAL, secret);
    }

    function leaf(address market, bytes32 jobId, address worker, uint256 index, bytes32 inputRoot, bytes32 outputRoot)
        internal
        view
        returns (bytes32)
    {
        return keccak256(abi.encode(LEAF, block.chainid, market, jobId, worker, index, inputRoot, outputRoot));
    }

    function seed(bytes32 jobId, uint256 window, bytes32 root, bytes32 secret, bytes32 beacon)
        internal
        pure
        returns (uint112)
    {
        // Low 112 bits: what fits into the job's word, far more than anyone can search.
        return uint112(uint256(keccak256(abi.encode(SEED, jobId, window, root, secret, beacon))));
    }

    function salt(bytes32 secret, bytes32 jobId, uint256 window) internal pure returns (uint128) {
        return uint128(uint256(keccak256(abi.encode(SEAL, secret, jobId, window))));
    }

    function verdictSeal(bytes32 jobId, uint256 window, address verifier, uint256 kind, uint256 segment, uint256 salt_)
        internal
        pure
        returns (bytes32)
    {
        return bytes32(uint256(keccak256(abi.encode(SEAL, jobId, window, verifier, kind, segment, salt_))) | SEALED);
    }

    function challengeSeal(address challenger, bytes32 jobId, uint256 segment, bytes32 claimedRoot, bytes32 salt_)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(SEAL, challenger, jobId, segment, claimedRoot, salt_));
    }

    function voteSeal(bytes32 disputeId_, uint256 round, address voter, uint256 vote, bytes32 salt_)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(SEAL, disputeId_, round, voter, vote, salt_));
    }

    function disputeId(bytes32 jobId, uint256 segment) internal pure returns (bytes32) {
        return keccak256(abi.encode(jobId, segment));
    }

    function verifiersKey(uint256 seed_) internal pure returns (bytes32) {
        return keccak256(abi.encode(DRAW_VERIFIERS, seed_));
    }

    function sampleKey(uint256 seed_, uint256 salt_) internal pure returns (bytes32) {
        return keccak256(abi.encode(DRAW_SAMPLE, seed_, salt_));
    }

    function panelKey(bytes32 disputeId_, uint256 round, bytes32 beacon) internal pure returns (bytes32) {
        return keccak256(abi.encode(DRAW_PANEL, disputeId_, round, beacon));
    }
}
