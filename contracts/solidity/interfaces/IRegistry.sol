// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

/// @title Who works and who verifies
/// @notice Both put a bond aside from their free units and say under which libp2p peer they are found. The peer's
/// signature binds peer to account (docs/protocol.md section 2); it is Ed25519, so readers check it, not the chain.
/// Who leaves waits `unbondingS` for the bond, longer than any dispute takes.
interface IRegistry {
    /// @param bond Locked units.
    /// @param registeredAt Time of registration, 0 for a stranger.
    /// @param leavingSince Time of the exit request, 0 while staying.
    struct Worker {
        uint96 bond;
        uint40 registeredAt;
        uint40 leavingSince;
    }

    /// @param bond Locked units left; penalties shrink it.
    /// @param registeredAt Time of registration, 0 for a stranger. Only a window drawn later can have drawn it.
    /// @param leavingSince Time of the exit request, 0 while staying.
    /// @param id Place in the pool of the class.
    /// @param secret Hash of the secret while staying, the secret itself from the exit request on.
    struct Verifier {
        uint96 bond;
        uint40 registeredAt;
        uint40 leavingSince;
        uint16 id;
        bytes32 secret;
    }

    /// @notice Why a verifier lost (part of) its bond.
    enum Fault {
        /// Drawn for a window and did not reveal a verdict in time.
        Silence,
        /// Said match for a segment of its sample that the judge found to be wrong.
        FalseMatch,
        /// Revealed a salt that its secret does not give.
        FalseSalt,
        /// Drawn for a panel and did not reveal a vote in time.
        PanelSilence
    }

    /// @notice `bond` units of `account` went from free to locked.
    event WorkerRegistered(address indexed account, uint256 bond, bytes peerId, bytes peerSignature);
    /// @notice No offer of `account` can be accepted any more; the bond may be taken from `bondFreeAt` on.
    event WorkerExitRequested(address indexed account, uint40 bondFreeAt);
    /// @notice `bond` units of `account` went from locked to free.
    event WorkerBondWithdrawn(address indexed account, uint256 bond);

    /// @notice `bond` units of `account` went from free to locked; it sits at place `id` of the class pool.
    event VerifierRegistered(
        bytes32 indexed classId,
        address indexed account,
        uint16 id,
        uint256 bond,
        bytes32 secretHash,
        bytes peerId,
        bytes peerSignature
    );
    /// @notice `account` seals no more verdicts; `secret` lets everybody check the salts it revealed.
    event VerifierExitRequested(bytes32 indexed classId, address indexed account, bytes32 secret, uint40 bondFreeAt);
    /// @notice `bond` units of `account` went from locked to free; place `id` may be given to the next.
    event VerifierBondWithdrawn(bytes32 indexed classId, address indexed account, uint16 id, uint256 bond);
    /// @notice `verifier`.locked shrank by `toCaller + burned`; `caller`.free grew by `toCaller`, the burn account's
    /// by `burned`.
    /// @param subject Job id, or for {Fault.PanelSilence} the dispute id.
    event Penalized(
        bytes32 indexed classId,
        address indexed verifier,
        Fault fault,
        bytes32 subject,
        address caller,
        uint256 toCaller,
        uint256 burned
    );

    /// @notice Makes the caller a worker.
    /// - not registered yet; `workerBond` units free
    /// - `peerId` of 1 to 64 bytes, `peerSignature` of 64
    /// Emits {WorkerRegistered}.
    function registerWorker(bytes calldata peerId, bytes calldata peerSignature) external;

    /// @notice Starts the caller's exit. Jobs that run go on. Emits {WorkerExitRequested}.
    function requestWorkerExit() external;

    /// @notice Frees the caller's bond once `unbondingS` have passed since the request. Emits {WorkerBondWithdrawn}.
    function withdrawWorkerBond() external;

    /// @notice Puts the caller into the pool of a class.
    /// - not in that pool yet; `verifierBond` units free; the pool has a place
    /// - `secretHash` = keccak(tag("tolsey/seal/1") ‖ secret), not zero
    /// Warning: a secret that is used in two registrations, or known to another, gives the sample away.
    /// Emits {VerifierRegistered}.
    function registerVerifier(bytes32 classId, bytes32 secretHash, bytes calldata peerId, bytes calldata peerSignature)
        external;

    /// @notice Starts the caller's exit from a pool and makes its secret public. Emits {VerifierExitRequested}.
    function requestVerifierExit(bytes32 classId, bytes32 secret) external;

    /// @notice Frees what is left of the caller's bond and its place once `unbondingS` have passed since the request.
    /// Emits {VerifierBondWithdrawn}.
    function withdrawVerifierBond(bytes32 classId) external;

    /// @notice Places in the pool of a class, empty ones included; grows, never shrinks.
    function poolSize(bytes32 classId) external view returns (uint256);

    /// @notice Who sits at place `id` of the pool, zero if nobody.
    function verifierAt(bytes32 classId, uint256 id) external view returns (address);

    function worker(address account_) external view returns (Worker memory);

    function verifier(bytes32 classId, address account_) external view returns (Verifier memory);
}
