// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// What a chain must get right for Tolsey, made visible: randomness, time, errors, logs, gas.
contract Probe {
    error Probe_Refused(uint256 wanted, uint256 found);

    event Seen(uint256 indexed number, uint256 indexed tag, uint256 prevrandao, uint256 timestamp);

    uint256 public lastPrevrandao;
    uint256 public lastTimestamp;
    uint256 public counter;
    mapping(uint256 => uint256) private _slots;

    function see(uint256 tag) external {
        lastPrevrandao = block.prevrandao;
        lastTimestamp = block.timestamp;
        counter += 1;
        emit Seen(block.number, tag, block.prevrandao, block.timestamp);
    }

    function seeMany(uint256 count) external {
        for (uint256 i = 0; i < count; ++i) {
            emit Seen(block.number, i, block.prevrandao, block.timestamp);
        }
    }

    function now_() external view returns (uint256 timestamp, uint256 prevrandao, uint256 number) {
        return (block.timestamp, block.prevrandao, block.number);
    }

    function refuse(uint256 found) external {
        counter += 1;
        revert Probe_Refused(7, found);
    }

    function refuseInWords() external pure {
        require(false, "in words");
    }

    function panic(uint256 divisor) external pure returns (uint256) {
        return 1 / divisor;
    }

    function fill(uint256 count) external {
        for (uint256 i = 0; i < count; ++i) _slots[i] = 1;
    }

    function wipe(uint256 count) external {
        for (uint256 i = 0; i < count; ++i) delete _slots[i];
    }

    /// Needs more gas than it uses: the inner call gets 63/64 of what is left and must have 100,000.
    function hungry() external {
        this.needs(100_000);
    }

    function needs(uint256 gasWanted) external {
        require(gasleft() >= gasWanted, "hungry");
        counter += 1;
    }

    function parentHash() external view returns (bytes32) {
        return blockhash(block.number - 1);
    }

    receive() external payable {}
}
