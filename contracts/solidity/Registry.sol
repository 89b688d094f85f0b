// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IRegistry} from "./interfaces/IRegistry.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {
    Registry_AlreadyRegistered,
    Registry_BadPeerBinding,
    Registry_BondLocked,
    Registry_Leaving,
    Registry_NotLeaving,
    Registry_NotRegistered,
    Registry_PoolFull,
    Registry_WrongSecret
} from "./libraries/Errors.sol";
import {Tags} from "./libraries/Tags.sol";
import {RegistryViews} from "./RegistryViews.sol";

/// @title Who works and who verifies
/// @notice A class pool is a list of places that only grows, so that a place drawn by number stays the same person's
/// until its exit is done; then it is given to the next who comes.
abstract contract Registry is IRegistry, RegistryViews {
    using Accounts for Accounts.Book;

    /// @dev Places must fit the job's word.
    uint256 internal constant MAX_POOL = type(uint16).max;
    /// @dev Bounds of a libp2p peer id (multihash) and the size of an Ed25519 signature, bytes.
    uint256 private constant MAX_PEER_ID = 64;
    uint256 private constant PEER_SIGNATURE = 64;

    // --- workers ---

    /// @inheritdoc IRegistry
    function registerWorker(bytes calldata peerId, bytes calldata peerSignature) external {
        _checkBinding(peerId, peerSignature);
        Worker storage own = _workers[msg.sender];
        if (own.registeredAt != 0) revert Registry_AlreadyRegistered(msg.sender, own.registeredAt);
        (own.bond, own.registeredAt) = (_workerBond, uint40(block.timestamp));
        _accounts.lock(msg.sender, _workerBond);
        emit WorkerRegistered(msg.sender, _workerBond, peerId, peerSignature);
    }

    /// @inheritdoc IRegistry
    function requestWorkerExit() external {
        _requireActiveWorker(msg.sender);
        _workers[msg.sender].leavingSince = uint40(block.timestamp);
        emit WorkerExitRequested(msg.sender, uint40(block.timestamp + _unbondingS));
    }

    /// @inheritdoc IRegistry
    function withdrawWorkerBond() external {
        Worker memory own = _workers[msg.sender];
        _requireUnbonded(own.leavingSince);
        delete _workers[msg.sender];
        _accounts.unlock(msg.sender, own.bond);
        emit WorkerBondWithdrawn(msg.sender, own.bond);
    }

    // --- verifiers ---

    /// @inheritdoc IRegistry
    function registerVerifier(bytes32 classId, bytes32 secretHash, bytes calldata peerId, bytes calldata peerSignature)
        external
    {
        _checkBinding(peerId, peerSignature);
        if (secretHash == 0) revert Registry_WrongSecret(secretHash, 0);
        Verifier storage own = _verifiers[classId][msg.sender];
        if (own.registeredAt != 0) revert Registry_AlreadyRegistered(msg.sender, own.registeredAt);
        uint16 id = _takePlace(classId);
        (own.bond, own.registeredAt, own.id, own.secret) = (_verifierBond, uint40(block.timestamp), id, secretHash);
        _accounts.lock(msg.sender, _verifierBond);
        emit VerifierRegistered(classId, msg.sender, id, _verifierBond, secretHash, peerId, peerSignature);
    }

    /// @inheritdoc IRegistry
    function requestVerifierExit(bytes32 classId, bytes32 secret) external {
        Verifier storage own = _verifiers[classId][msg.sender];
        if (own.registeredAt == 0) revert Registry_NotRegistered(classId, msg.sender);
        if (own.leavingSince != 0) revert Registry_Leaving(msg.sender, own.leavingSince);
        bytes32 hashed = Tags.sealOf(secret);
        if (hashed != own.secret) revert Registry_WrongSecret(own.secret, hashed);
        (own.leavingSince, own.secret) = (uint40(block.timestamp), secret);
        emit VerifierExitRequested(classId, msg.sender, secret, uint40(block.timestamp + _unbondingS));
    }

    /// @inheritdoc IRegistry
    function withdrawVerifierBond(bytes32 classId) external {
        Verifier memory own = _verifiers[classId][msg.sender];
        _requireUnbonded(own.leavingSince);
        delete _verifiers[classId][msg.sender];
        delete _pools[classId].places[own.id];
        _pools[classId].empty.push(own.id);
        _accounts.unlock(msg.sender, own.bond);
        emit VerifierBondWithdrawn(classId, msg.sender, own.id, own.bond);
    }

    // --- helpers ---

    function _takePlace(bytes32 classId) private returns (uint16 id) {
        Pool storage pool = _pools[classId];
        uint256 empty = pool.empty.length;
        if (empty != 0) {
            id = pool.empty[empty - 1];
            pool.empty.pop();
            pool.places[id] = msg.sender;
        } else {
            uint256 size = pool.places.length;
            if (size == MAX_POOL) revert Registry_PoolFull(classId, MAX_POOL);
            id = uint16(size);
            pool.places.push(msg.sender);
        }
    }

    function _requireUnbonded(uint40 leavingSince) private view {
        if (leavingSince == 0) revert Registry_NotLeaving(msg.sender);
        uint256 freeAt = uint256(leavingSince) + _unbondingS;
        if (block.timestamp < freeAt) revert Registry_BondLocked(msg.sender, freeAt, block.timestamp);
    }

    function _checkBinding(bytes calldata peerId, bytes calldata peerSignature) private pure {
        if (peerId.length == 0 || peerId.length > MAX_PEER_ID || peerSignature.length != PEER_SIGNATURE) {
            revert Registry_BadPeerBinding(peerId.length, peerSignature.length);
        }
    }
}
