// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {ILedger} from "../interfaces/ILedger.sol";
import {Ledger_InsufficientFree} from "./Errors.sol";

/// @title The movements of money inside the market
/// @notice An account is one word: free units in the low half, locked ones in the high half. Each movement reads and writes
/// storage in turn, so that the parties of a job may be one account. Taking more locked units than there are would be
/// a bug of ours: checked arithmetic panics.
library Accounts {
    struct Book {
        mapping(address account => uint256 word) words;
    }

    function read(Book storage book, address who) internal view returns (ILedger.Account memory) {
        (uint256 free, uint256 locked) = _halves(book, who);
        return ILedger.Account({free: uint128(free), locked: uint128(locked)});
    }

    /// @notice Free grows, locked shrinks. The caller sees to it that over all its changes nothing is made or lost.
    function change(Book storage book, address who, uint256 toFree, uint256 fromLocked) internal {
        (uint256 free, uint256 locked) = _halves(book, who);
        _write(book, who, free + toFree, locked - fromLocked);
    }

    /// @notice From outside to free.
    function credit(Book storage book, address who, uint256 amount) internal {
        change(book, who, amount, 0);
    }

    /// @notice From free to outside.
    function debit(Book storage book, address who, uint256 amount) internal {
        (uint256 free, uint256 locked) = _halves(book, who);
        if (free < amount) revert Ledger_InsufficientFree(who, amount, free);
        _write(book, who, free - amount, locked);
    }

    /// @notice Free to locked.
    function lock(Book storage book, address who, uint256 amount) internal {
        (uint256 free, uint256 locked) = _halves(book, who);
        if (free < amount) revert Ledger_InsufficientFree(who, amount, free);
        _write(book, who, free - amount, locked + amount);
    }

    /// @notice Locked to free, same account.
    function unlock(Book storage book, address who, uint256 amount) internal {
        if (amount != 0) change(book, who, amount, amount);
    }

    /// @notice Locked of one to free of another.
    function pay(Book storage book, address from, address to, uint256 amount) internal {
        if (amount == 0) return;
        change(book, from, 0, amount);
        change(book, to, amount, 0);
    }

    function _halves(Book storage book, address who) private view returns (uint256 free, uint256 locked) {
        uint256 word = book.words[who];
        return (uint128(word), word >> 128);
    }

    /// @dev A half that outgrew its 128 bits is refused, so the next one cannot be touched.
    function _write(Book storage book, address who, uint256 free, uint256 locked) private {
        assert((free | locked) >> 128 == 0);
        book.words[who] = free | locked << 128;
    }
}
