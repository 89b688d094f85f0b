// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {Disputes} from "./Disputes.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {MarketStorage} from "./MarketStorage.sol";
import {Registry} from "./Registry.sol";

/// @title The rare half of the market
/// @notice Registrations, disputes and penalties. Only its code is used: {JobMarket} makes it, hands it calls by
/// delegatecall, and keeps the storage. Called directly it works on accounts that nobody can fill, so on nothing.
contract MarketAnnex is Registry, Disputes {
    constructor(IJobMarket.Params memory p) MarketStorage(p) {}
}
