// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IJobMarket} from "../interfaces/IJobMarket.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {MerkleLib} from "../libraries/MerkleLib.sol";
import {Tags} from "../libraries/Tags.sol";
import {Market} from "./Market.sol";

/// @notice The shared vectors: what Python and Solidity must both compute. The texts below are written to out/ and must be
/// those in tests/vectors/; after a change of the protocol, copy them there.
contract VectorsTest is Market {
    address private constant AT = 0x00000000000000000000000000000000000000AA;
    address private constant WHO = 0x00000000000000000000000000000000000000bb;

    function test_vectors_draw_agree() public {
        string memory cases;
        uint256[3][6] memory sizes = [
            [uint256(1), 1, 0],
            [uint256(5), 2, 1],
            [uint256(8), 8, 2],
            [uint256(100), 7, 3],
            [uint256(1000), 44, 4],
            [uint256(3), 0, 5]
        ];
        for (uint256 i = 0; i < sizes.length; ++i) {
            bytes32 key = keccak256(abi.encode("key", sizes[i][2]));
            uint256[] memory places = DrawLib.draw(key, sizes[i][0], sizes[i][1]);
            cases = listed(
                cases,
                string.concat(
                    '{"key": "',
                    vm.toString(key),
                    '", "size": ',
                    vm.toString(sizes[i][0]),
                    ', "count": ',
                    vm.toString(sizes[i][1]),
                    ', "places": ',
                    numbers(places),
                    "}"
                )
            );
        }
        agree("draw.json", string.concat('{"cases": [\n', cases, "\n]}\n"));
    }

    function test_vectors_merkle_agree() public {
        string memory cases;
        for (uint256 count = 1; count <= 9; ++count) {
            bytes32[] memory leaves = new bytes32[](count);
            for (uint256 i = 0; i < count; ++i) {
                leaves[i] = keccak256(abi.encode("leaf", i));
            }
            uint256 index = count - 1 - count / 3;
            bytes32[] memory proof = proofOf(leaves, index);
            isTrue(this.verify(rootOf(leaves), count, index, leaves[index], proof), "MerkleLib accepts the proof");
            cases = listed(
                cases,
                string.concat(
                    '{"leaves": ',
                    words(leaves),
                    ', "root": "',
                    vm.toString(rootOf(leaves)),
                    '", "index": ',
                    vm.toString(index),
                    ', "proof": ',
                    words(proof),
                    "}"
                )
            );
        }
        agree("merkle.json", string.concat('{"cases": [\n', cases, "\n]}\n"));
    }

    /// @dev Inputs: chain id 31337, market 0x..aa, account 0x..bb, every other word keccak(abi.encode(its name)).
    function test_vectors_hashes_agree() public {
        bytes32 job = w("job");
        bytes32 root = w("root");
        bytes32 secret = w("secret");
        bytes32 input = w("input");
        bytes32 output = w("output");
        bytes32 dispute = Tags.disputeId(job, 5);
        string memory text = pair("", "jobId", job);
        text = pair(text, "root", root);
        text = pair(text, "secret", secret);
        text = pair(text, "inputRoot", input);
        text = pair(text, "outputRoot", output);
        text = pair(text, "beacon", w("beacon"));
        text = pair(text, "leaf5", Tags.leaf(AT, job, WHO, 5, input, output));
        text = pair(text, "sealOfSecret", Tags.sealOf(secret));
        text = pair(text, "seedOfWindow2", bytes32(uint256(Tags.seed(job, 2, root, secret, w("beacon")))));
        text = pair(text, "saltOfWindow2", bytes32(uint256(Tags.salt(secret, job, 2))));
        text = pair(text, "verdictSealWindow2Mismatch5Salt77", Tags.verdictSeal(job, 2, WHO, 2, 5, 77));
        text = pair(text, "challengeSealSegment5SaltSecret", Tags.challengeSeal(WHO, job, 5, output, secret));
        text = pair(text, "disputeIdSegment5", dispute);
        text = pair(text, "voteSealRound1Vote2SaltSecret", Tags.voteSeal(dispute, 1, WHO, 2, secret));
        text = pair(text, "verifiersKeySeed9", Tags.verifiersKey(9));
        text = pair(text, "sampleKeySeed9Salt77", Tags.sampleKey(9, 77));
        text = pair(text, "panelKeyRound1", Tags.panelKey(dispute, 1, w("beacon")));
        agree("hashes.json", string.concat("{\n", text, "\n}\n"));
    }

    function testFuzz_draw_containsAgreesWithDraw(bytes32 key, uint256 size, uint256 count) public pure {
        size = pick(size, 1, 60);
        count = pick(count, 0, size);
        uint256[] memory places = DrawLib.draw(key, size, count);
        bool[] memory seen = new bool[](size);
        for (uint256 i = 0; i < count; ++i) {
            isTrue(!seen[places[i]], "drawn twice");
            seen[places[i]] = true;
        }
        for (uint256 place = 0; place < size; ++place) {
            isTrue(DrawLib.contains(key, size, count, place) == seen[place], "contains differs from draw");
        }
    }

    function testFuzz_merkle_otherLeafOrPlace_isRefused(bytes32 seed, uint256 count, uint256 index) public view {
        count = pick(count, 1, 40);
        index = pick(index, 0, count - 1);
        bytes32[] memory leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            leaves[i] = keccak256(abi.encode(seed, i));
        }
        bytes32[] memory proof = proofOf(leaves, index);
        bytes32 root = rootOf(leaves);
        isTrue(this.verify(root, count, index, leaves[index], proof), "true proof refused");
        isTrue(!this.verify(root, count, index, keccak256("other"), proof), "other leaf accepted");
        isTrue(!this.verify(root, count, count + index, leaves[index], proof), "place outside accepted");
        if (count > 1) isTrue(!this.verify(root, count, index ^ 1, leaves[index], proof), "other place accepted");
    }

    function verify(bytes32 root, uint256 count, uint256 index, bytes32 leaf, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return MerkleLib.verify(root, count, index, leaf, proof);
    }

    // --- text ---

    function agree(string memory name, string memory text) private {
        vm.writeFile(string.concat("out/", name), text);
        string memory stored = vm.readFile(string.concat("../../tests/vectors/", name));
        same(keccak256(bytes(stored)), keccak256(bytes(text)), string.concat("tests/vectors/", name));
    }

    function w(string memory name) private pure returns (bytes32) {
        return keccak256(abi.encode(name));
    }

    function pair(string memory text, string memory name, bytes32 value) private pure returns (string memory) {
        return listed(text, string.concat('"', name, '": "', vm.toString(value), '"'));
    }

    function listed(string memory text, string memory item) private pure returns (string memory) {
        return string.concat(text, bytes(text).length == 0 ? "  " : ",\n  ", item);
    }

    function words(bytes32[] memory values) private pure returns (string memory text) {
        for (uint256 i = 0; i < values.length; ++i) {
            text = string.concat(text, i == 0 ? '"' : '", "', vm.toString(values[i]));
        }
        text = string.concat("[", text, values.length == 0 ? "]" : '"]');
    }

    function numbers(uint256[] memory values) private pure returns (string memory text) {
        for (uint256 i = 0; i < values.length; ++i) {
            text = string.concat(text, i == 0 ? "" : ", ", vm.toString(values[i]));
        }
        text = string.concat("[", text, "]");
    }
}
