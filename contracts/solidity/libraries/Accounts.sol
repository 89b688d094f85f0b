// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ILedger} from "../interfaces/ILedger.sol";
import {Ledger_InsufficientFree} from "./Errors.sol";

/// @title The three movements of money inside the market
/// @notice Each reads and writes storage in turn, so that the parties of a job may be one account. Taking more locked
/// units than there are would be a bug of ours: checked arithmetic panics.
library Accounts {
    using SafeCast for uint256;

    /// @notice Free to locked.
    function lock(mapping(address => ILedger.Account) storage accounts, address who, uint256 amount) internal {
        ILedger.Account storage own = accounts[who];
        uint128 free = own.free;
        if (free < amount) revert Ledger_InsufficientFree(who, amount, free);
        uint128 part = amount.toUint128();
        (own.free, own.locked) = (free - part, own.locked + part);
    }

    /// @notice Locked to free, same account.
    function unlock(mapping(address => ILedger.Account) storage accounts, address who, uint256 amount) internal {
        if (amount == 0) return;
        ILedger.Account storage own = accounts[who];
        uint128 part = amount.toUint128();
        (own.free, own.locked) = (own.free + part, own.locked - part);
    }

    /// @notice Locked of one to free of another.
    function pay(mapping(address => ILedger.Account) storage accounts, address from, address to, uint256 amount)
        internal
    {
        if (amount == 0) return;
        uint128 part = amount.toUint128();
        accounts[from].locked -= part;
        accounts[to].free += part;
    }
}
