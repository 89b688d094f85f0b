// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

/// @title Everybody's money in one market
/// @notice Tokens are deposited once and withdrawn by pull; between the two, jobs only move units between the halves
/// of accounts and never touch the token. All amounts are in base units of the market's one token.
/// An account rebuilt from logs: see the money column of each event in {IJobMarket}, {IRegistry} and here.
interface ILedger {
    /// @param free What its owner may withdraw or put into a job.
    /// @param locked What stands in escrow or as a bond; moves by the rules of the job or registration alone.
    struct Account {
        uint128 free;
        uint128 locked;
    }

    /// @notice `account`.free grew by `amount`.
    event Deposited(address indexed account, uint256 amount);

    /// @notice `account`.free shrank by `amount`, which was sent to `to`.
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    /// @notice Takes `amount` of the token from the caller and credits what arrived.
    /// - the caller has approved `amount` to the market
    /// - something arrives
    /// Emits {Deposited}.
    function deposit(uint128 amount) external;

    /// @notice As {deposit}, with an ERC-2612 permit in place of an approval.
    /// A permit that somebody else has already submitted (front-running) does not matter as long as the allowance is
    /// there.
    /// Emits {Deposited}.
    function depositWithPermit(uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Sends `amount` of the caller's free units to `to`.
    /// - the caller has that much free and is not the burn account
    /// - `to` is neither zero nor the market itself
    /// Emits {Withdrawn}.
    function withdraw(uint128 amount, address to) external;

    /// @notice The account of `who`.
    function account(address who) external view returns (Account memory);
}
