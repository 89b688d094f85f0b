// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IBeacon} from "./interfaces/IBeacon.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStepJudge} from "./interfaces/IStepJudge.sol";
import {Accounts} from "./libraries/Accounts.sol";

/// @title Everything the market remembers
/// @notice The market is larger than the 24,576 bytes of code that a chain takes, so it has two halves, {JobMarket} and
/// {MarketAnnex}, that work on one storage. All of it is declared here and nowhere else, so that it cannot differ.
/// Next in the flow: Ledger.sol, Registry.sol, JobRules.sol.
abstract contract MarketStorage is EIP712 {
    /// @notice What nobody gets is credited here; nobody holds the key, and the market refuses it besides.
    address public constant BURN = 0x000000000000000000000000000000000000dEaD;

    /// @dev Rounds of a judge, each with time to draw (maxWindowS), to seal and to reveal (panelWindowS each).
    uint256 internal constant JUDGE_ROUNDS = 3;
    /// @dev What silence costs, in verdict or panel fees.
    uint256 internal constant SILENCE_FACTOR = 2;

    IERC20 internal immutable _token;
    uint96 internal immutable _workerBond;
    uint96 internal immutable _verifierBond;
    uint32 internal immutable _unbondingS;
    address internal immutable _treasury;
    uint16 internal immutable _feeBps;
    uint96 internal immutable _challengeBond;
    uint96 internal immutable _panelFee;
    uint96 internal immutable _minJobBond;
    uint32 internal immutable _maxWindowS;
    uint32 internal immutable _minVerdictWindowS;
    uint32 internal immutable _panelWindowS;
    IBeacon internal immutable _beacon;
    IStepJudge internal immutable _judge;

    struct Pool {
        address[] places;
        uint16[] empty;
    }

    Accounts.Book internal _accounts;
    mapping(address account => IRegistry.Worker) internal _workers;
    mapping(bytes32 classId => mapping(address account => IRegistry.Verifier)) internal _verifiers;
    mapping(bytes32 classId => Pool) internal _pools;
    /// @dev See libraries/JobSlot.sol.
    mapping(bytes32 jobId => uint256 word) internal _jobs;
    mapping(bytes32 jobId => mapping(uint256 window => bytes32 root)) internal _roots;
    mapping(bytes32 jobId => IJobMarket.Dispute) internal _disputes;
    /// @dev Sealed: the seal, top bit set. Revealed: see {_packVerdict}.
    mapping(bytes32 jobId => mapping(uint256 window => mapping(address verifier => uint256))) internal _verdicts;
    /// @dev Block in which a challenge was sealed.
    mapping(bytes32 seal => uint256 blockNumber) internal _challengeSeals;
    /// @dev Segments that were demanded and opened: the log has the opening.
    mapping(bytes32 jobId => mapping(uint256 segment => bool)) internal _answered;

    constructor(IJobMarket.Params memory p) EIP712("Tolsey", "1") {
        _token = p.token;
        _workerBond = p.workerBond;
        _verifierBond = p.verifierBond;
        _unbondingS = p.unbondingS;
        _treasury = p.treasury;
        _feeBps = p.feeBps;
        _challengeBond = p.challengeBond;
        _panelFee = p.panelFee;
        _minJobBond = p.minJobBond;
        _maxWindowS = p.maxWindowS;
        _minVerdictWindowS = p.minVerdictWindowS;
        _panelWindowS = p.panelWindowS;
        _beacon = p.beacon;
        _judge = p.judge;
    }
}
