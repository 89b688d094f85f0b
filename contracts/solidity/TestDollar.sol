// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {TestDollar_NotALocalChain} from "./libraries/Errors.sol";

/// @title Play money for local chains
/// @notice Anybody mints any amount, so it refuses to exist where somebody might take it for money.
contract TestDollar is ERC20, ERC20Permit {
    /// @dev Default chain ids of anvil and hardhat, of ganache and geth --dev, and of eth-tester.
    uint256 private constant ANVIL = 31_337;
    uint256 private constant GETH_DEV = 1337;
    uint256 private constant ETH_TESTER = 131_277_322_940_537;

    constructor() ERC20("Tolsey Test Dollar", "TTD") ERC20Permit("Tolsey Test Dollar") {
        uint256 chain = block.chainid;
        if (chain != ANVIL && chain != GETH_DEV && chain != ETH_TESTER) revert TestDollar_NotALocalChain(chain);
    }

    /// @notice Gives `to` as many base units as wished (1,000,000 to the dollar).
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @dev As real stablecoins have it.
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
