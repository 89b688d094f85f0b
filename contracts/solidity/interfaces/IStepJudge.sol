// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

/// @title Decides whether a worker's segment is right
/// @notice The only one whose word moves a worker's bond. Today a panel that runs the segment again ({IPanelJudge});
/// later a contract that recomputes one operation.
interface IStepJudge {
    enum Ruling {
        Pending,
        WorkerRight,
        WorkerWrong,
        None
    }

    /// @notice What is in dispute: the worker says that `segment` leads from `inputRoot` to `outputRoot`, the
    /// challenger says to `claimedRoot` (0: nobody serves the checkpoints).
    struct Claim {
        bytes32 disputeId;
        bytes32 jobId;
        bytes32 specHash;
        bytes32 classId;
        address client;
        address worker;
        address challenger;
        uint32 segment;
        bytes32 inputRoot;
        bytes32 outputRoot;
        bytes32 claimedRoot;
    }

    /// @param ruling Pending until the dispute has ended.
    /// @param finderEarned The challenger named the true fault and gets the finder's share.
    /// @param matchRefuted The segment's output is wrong (not merely missing), so a verdict "match" on it was false.
    /// @param majority Who is paid for the ruling; at most a handful.
    struct Outcome {
        Ruling ruling;
        bool finderEarned;
        bool matchRefuted;
        address[] majority;
    }

    /// @notice Opens a dispute.
    /// - the caller is the market
    /// - `claim.disputeId` was never opened before
    function open(Claim calldata claim) external;

    /// @notice What the judge has found.
    function outcome(bytes32 disputeId) external view returns (Outcome memory);
}
