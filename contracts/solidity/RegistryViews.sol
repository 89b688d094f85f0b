// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IRegistry} from "./interfaces/IRegistry.sol";
import {Registry_Leaving, Registry_NotRegistered} from "./libraries/Errors.sol";
import {MarketStorage} from "./MarketStorage.sol";

/// @title Looking at workers and verifiers
/// @notice In both halves of the market; the changes are in Registry.sol.
abstract contract RegistryViews is IRegistry, MarketStorage {
    /// @inheritdoc IRegistry
    function poolSize(bytes32 classId) external view returns (uint256) {
        return _pools[classId].places.length;
    }

    /// @inheritdoc IRegistry
    function verifierAt(bytes32 classId, uint256 id) external view returns (address) {
        return _pools[classId].places[id];
    }

    /// @inheritdoc IRegistry
    function worker(address account_) external view returns (Worker memory) {
        return _workers[account_];
    }

    /// @inheritdoc IRegistry
    function verifier(bytes32 classId, address account_) external view returns (Verifier memory) {
        return _verifiers[classId][account_];
    }

    function _requireActiveWorker(address account_) internal view {
        Worker storage own = _workers[account_];
        if (own.registeredAt == 0) revert Registry_NotRegistered(0, account_);
        if (own.leavingSince != 0) revert Registry_Leaving(account_, own.leavingSince);
    }
}
