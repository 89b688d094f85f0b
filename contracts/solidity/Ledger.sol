// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {Ledger_NothingArrived, Ledger_WithdrawalRefused} from "./libraries/Errors.sol";
import {MarketStorage} from "./MarketStorage.sol";

/// @title Everybody's money in one market
/// @notice The doors between token and accounts; only here the token is touched. Movements between accounts are in
/// libraries/Accounts.sol.
abstract contract Ledger is ILedger, MarketStorage, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Accounts for Accounts.Book;

    /// @inheritdoc ILedger
    function deposit(uint128 amount) external nonReentrant {
        _deposit(amount);
    }

    /// @inheritdoc ILedger
    function depositWithPermit(uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        // Whoever sees the permit may submit it first; then this call fails but the allowance is there.
        try IERC20Permit(address(_token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(amount);
    }

    /// @inheritdoc ILedger
    function withdraw(uint128 amount, address to) external nonReentrant {
        if (msg.sender == BURN || to == address(0) || to == address(this)) {
            revert Ledger_WithdrawalRefused(msg.sender, to);
        }
        _accounts.debit(msg.sender, amount);
        emit Withdrawn(msg.sender, to, amount);
        _token.safeTransfer(to, amount);
    }

    /// @inheritdoc ILedger
    function account(address who) external view returns (Account memory) {
        return _accounts.read(who);
    }

    /// @dev The one place where the effect follows the interaction: what arrived is only known afterwards. The guard
    /// keeps other deposits and withdrawals from moving the balance in between.
    function _deposit(uint128 amount) private {
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 arrived = _token.balanceOf(address(this)) - before;
        if (arrived == 0) revert Ledger_NothingArrived(msg.sender, amount);
        _accounts.credit(msg.sender, arrived);
        emit Deposited(msg.sender, arrived);
    }
}
