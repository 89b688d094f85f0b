// SPDX-License-Identifier: Apache-2.0
pragma solidity =0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IBeacon} from "./IBeacon.sol";
import {IStepJudge} from "./IStepJudge.sol";

/// @title Escrow, bonds and the life of a job
/// @notice The table in docs/protocol.md section 3, entry by entry. A job is named by the EIP-712 digest of its
/// {Offer}; the chain stores one word of state, and each call brings the whole offer, which is checked by hashing it.
/// Every call that carries an Offer and finds no fitting state reverts with `JobMarket_WrongState`.
/// Amounts are base units of the token, times are seconds of block time.
interface IJobMarket {
    /// @notice Where a job stands. Completed and later are final.
    enum State {
        None,
        Accepted,
        Committed,
        Drawn,
        Demanded,
        Challenged,
        Completed,
        Cancelled,
        Expired,
        Slashed,
        Voided
    }

    /// @notice The terms that a worker signs (EIP-712) and the client accepts. Field order is part of the type hash.
    /// @param specHash Hash of the job's description.
    /// @param classId Numerics class whose verifiers and panel can replay it.
    /// @param initialRoot State root that segment 0 starts from.
    /// @param clientSeal `H^W(secret)`, so that window w reveals `H^(W-1-w)(secret)`.
    /// @param client Who pays.
    /// @param worker Who works.
    /// @param price For the whole job, paid window by window.
    /// @param bond Locked from the worker for this job.
    /// @param forfeit What cancelling costs the client, or resigning and lateness the worker.
    /// @param verdictFee For each verdict of a drawn verifier, paid by the client.
    /// @param segmentCount Segments of the job.
    /// @param segmentsPerWindow Segments of a window; the last window has the rest.
    /// @param verifierCount Verifiers drawn for each window, at most 7.
    /// @param sampleCount Segments that each of them replays, at most 1024.
    /// @param commitWindowS From acceptance (or the last settlement) to the commitment.
    /// @param revealWindowS From the commitment until anyone may draw without the client's secret.
    /// @param verdictWindowS To seal a verdict, again to reveal it, and to answer a demand.
    /// @param challengeWindowS From the draw to settlement; more than twice verdictWindowS.
    /// @param nonce Makes two equal offers two jobs.
    /// @param expiresAt Last moment for acceptance.
    struct Offer {
        bytes32 specHash;
        bytes32 classId;
        bytes32 initialRoot;
        bytes32 clientSeal;
        address client;
        address worker;
        uint96 price;
        uint96 bond;
        uint96 forfeit;
        uint96 verdictFee;
        uint32 segmentCount;
        uint32 segmentsPerWindow;
        uint8 verifierCount;
        uint16 sampleCount;
        uint32 commitWindowS;
        uint32 revealWindowS;
        uint32 verdictWindowS;
        uint32 challengeWindowS;
        uint64 nonce;
        uint40 expiresAt;
    }

    /// @notice The one word of a job.
    /// @param window Windows paid so far, so also the number of the one in work; W once Completed.
    /// @param drawnAt Time of the last draw; while Committed, of the commitment.
    /// @param deadline Last moment for the parties; after it anyone moves the job. In a final state, when it ended.
    /// @param poolSize Class pool of the last draw; 0 while there was none in this window.
    /// @param verdictsPaid Verdict fees paid so far, over all windows.
    /// @param seed Of the last draw; while Committed, the commitment's block number (low 64 bits) and class pool.
    struct Job {
        State state;
        uint16 window;
        uint40 drawnAt;
        uint40 deadline;
        uint16 poolSize;
        uint24 verdictsPaid;
        uint112 seed;
    }

    /// @notice A segment's leaf and its place in the tree of its window.
    /// @param index Of the segment in the job.
    /// @param proof Siblings, lowest first; exactly ceil(log2 n) for the n segments of the window.
    struct Opening {
        uint32 index;
        bytes32 inputRoot;
        bytes32 outputRoot;
        bytes32[] proof;
    }

    /// @notice The last demand or challenge of a job, or what it was slashed for.
    /// @param challenger Who opened it (zero where a discontinuity was proven).
    /// @param segment Of the job.
    /// @param timeLeftS What was left of the challenge window when it was opened.
    /// @param matchRefuted The judge found the segment's output wrong, so "match" on it was false.
    struct Dispute {
        address challenger;
        uint32 segment;
        uint40 timeLeftS;
        bool matchRefuted;
    }

    /// @notice A drawn verifier's word on a window.
    /// @param seal Not zero from sealing to revealing.
    /// @param kind 0 none yet, 1 match, 2 mismatch, 3 unavailable, 4 abstain, 5 penalized for silence.
    /// @param segment The one in question for kinds 2 and 3.
    /// @param salt Gives the verifier's sample.
    /// @param revealedAt Time of the revelation.
    struct Verdict {
        bytes32 seal;
        uint8 kind;
        uint32 segment;
        uint128 salt;
        uint40 revealedAt;
    }

    /// @notice Where the money of a slashed job goes (docs/protocol.md section 3.1).
    /// @param toClient From the bond: what the client has spent on the job.
    /// @param escrowReturned From the client's own escrow.
    /// @param toPanel From the bond, in equal parts.
    /// @param toFinder From the bond.
    /// @param burned From the bond.
    /// @param challengeBondReturned From the challenger's own bond.
    struct Shares {
        uint256 toClient;
        uint256 escrowReturned;
        uint256 toPanel;
        uint256 toFinder;
        uint256 burned;
        uint256 challengeBondReturned;
    }

    /// @notice What a deployment is made with and never changes.
    /// @param token The one ERC-20; no fees on transfer, no rebasing.
    /// @param treasury Gets `feeBps` of each window price.
    /// @param feeBps At most MAX_FEE_BPS.
    /// @param workerBond To be listed as worker.
    /// @param verifierBond To be in a class pool.
    /// @param challengeBond For a demand or challenge.
    /// @param panelFee For each panel member of the majority.
    /// @param minJobBond Least `bond` of an offer.
    /// @param unbondingS From an exit request to the bond.
    /// @param maxWindowS Most that any clock of an offer may be.
    /// @param minVerdictWindowS Least `verdictWindowS`, so that nobody can be silent through no fault of its own.
    /// @param panelWindowS To seal a panel vote, and again to reveal it.
    /// @param beacon Randomness of draws.
    /// @param judge Decides challenges.
    struct Params {
        IERC20 token;
        address treasury;
        uint16 feeBps;
        uint96 workerBond;
        uint96 verifierBond;
        uint96 challengeBond;
        uint96 panelFee;
        uint96 minJobBond;
        uint32 unbondingS;
        uint32 maxWindowS;
        uint32 minVerdictWindowS;
        uint32 panelWindowS;
        IBeacon beacon;
        IStepJudge judge;
    }

    // Every event of a job starts with the job, the states before and after, and the job's window and deadline after.

    /// @notice client: price + W * verifierCount * verdictFee from free to locked; worker: bond from free to locked.
    event Accepted(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address indexed client,
        address indexed worker,
        Offer offer
    );
    /// @notice The worker took its signature back before anybody accepted.
    event Revoked(bytes32 indexed jobId, State from, State to, uint16 window, uint40 deadline, address indexed worker);
    event Committed(bytes32 indexed jobId, State from, State to, uint16 window, uint40 deadline, bytes32 root);
    /// @param secret The client's for this window, 0 if it stayed silent.
    event Drawn(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint112 seed,
        uint16 poolSize,
        bytes32 secret,
        bytes32 beacon
    );
    /// @notice client.locked - (paid + fee + escrowReturned), client.free + escrowReturned, worker.free + paid +
    /// bondReturned,
    /// worker.locked - bondReturned, treasury.free + fee. Paid was window `window - 1`.
    event Settled(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint256 paid,
        uint256 fee,
        uint256 escrowReturned,
        uint256 bondReturned
    );
    /// @notice client.locked - (toWorker + escrowReturned), client.free + escrowReturned, worker.free + toWorker +
    /// bondReturned,
    /// worker.locked - bondReturned.
    event Cancelled(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint256 toWorker,
        uint256 escrowReturned,
        uint256 bondReturned
    );
    /// @notice worker.locked - (toClient + bondReturned), worker.free + bondReturned, client.free + toClient +
    /// escrowReturned,
    /// client.locked - escrowReturned. The worker gave up.
    event Resigned(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint256 toClient,
        uint256 escrowReturned,
        uint256 bondReturned
    );
    /// @notice Money as in {Resigned}. The worker committed nothing in time.
    event Expired(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint256 toClient,
        uint256 escrowReturned,
        uint256 bondReturned
    );
    /// @notice challenger: bond from free to locked.
    event Demanded(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address indexed challenger,
        uint32 segment,
        uint256 bond
    );
    /// @notice challenger.locked - (toWorker + returned), challenger.free + returned, worker.free + toWorker.
    /// The proof stands in the log because the answer may come through any contract, and whoever reads it can then
    /// challenge the segment.
    event Answered(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address indexed challenger,
        uint32 segment,
        bytes32 inputRoot,
        bytes32 outputRoot,
        bytes32[] proof,
        uint256 toWorker,
        uint256 returned
    );
    /// @notice challenger: bond from free to locked.
    event Challenged(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address indexed challenger,
        bytes32 indexed disputeId,
        uint32 segment,
        bytes32 inputRoot,
        bytes32 outputRoot,
        bytes32 claimedRoot,
        uint256 bond
    );
    /// @notice challenger.locked - (toPanel + toWorker + burned), each of `panel`.free + toPanel / panel.length,
    /// worker.free +
    /// toWorker, burn account.free + burned.
    event ChallengeFailed(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address indexed challenger,
        uint32 segment,
        address[] panel,
        uint256 toPanel,
        uint256 toWorker,
        uint256 burned
    );
    /// @notice worker.locked - (toClient + toPanel + toFinder + burned) = worker.locked - the job's bond, client.free
    /// + toClient +
    /// escrowReturned, client.locked - escrowReturned, each of `panel`.free + toPanel / panel.length, finder.free +
    /// toFinder,
    /// burn account.free + burned; challenger (zero where there is none): challengeBondReturned from locked to free.
    event Slashed(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        uint32 segment,
        address finder,
        address challenger,
        address[] panel,
        Shares shares
    );
    /// @notice The named amounts go from locked to free for client, worker and challenger.
    event Voided(
        bytes32 indexed jobId,
        State from,
        State to,
        uint16 window,
        uint40 deadline,
        address challenger,
        uint256 escrowReturned,
        uint256 bondReturned,
        uint256 challengeBondReturned
    );

    // What verifiers and challengers do beside the job's state.

    /// @notice No money moves.
    event VerdictSealed(bytes32 indexed jobId, address indexed verifier, uint16 window, bytes32 seal);
    /// @notice client.locked - paid, verifier.free + paid.
    event VerdictRevealed(
        bytes32 indexed jobId,
        address indexed verifier,
        uint16 window,
        uint8 kind,
        uint32 segment,
        uint128 salt,
        uint256 paid
    );
    /// @notice No money moves.
    event ChallengeSealed(address indexed challenger, bytes32 seal);

    // --- the client and the worker agree ---

    /// @notice Turns a signed offer into a job: escrow and bond are locked.
    /// - the caller is `offer.client`; `signature` is the worker's over {jobId}, 65 bytes
    /// - not expired, not revoked, not accepted before; every term within its bounds
    /// - the worker is registered and not leaving; both have the free units
    /// Emits {Accepted}.
    function accept(Offer calldata offer, bytes calldata signature) external returns (bytes32);

    /// @notice Makes an offer that nobody accepted yet worthless. The caller is `offer.worker`. Emits {Revoked}.
    function revokeOffer(Offer calldata offer) external;

    // --- a window's work ---

    /// @notice Fixes the Merkle root over the window's segment leaves.
    /// - the caller is `offer.worker`; state Accepted, in time; `root` not zero
    /// Warning: whoever commits must be able to serve every checkpoint until the window is settled.
    /// Emits {Committed}.
    function commit(Offer calldata offer, bytes32 root) external;

    /// @notice Draws the window's seed. State Committed, in a later block than the commitment.
    /// - `secret` hashed window + 1 times gives `offer.clientSeal`; or `secret` is 0 and the deadline has passed
    /// Emits {Drawn}.
    function draw(Offer calldata offer, bytes32 secret) external;

    /// @notice Pays the window and opens the next, or completes the job. State Drawn, past the deadline. Anyone.
    /// Emits {Settled}.
    function settle(Offer calldata offer) external;

    // --- early ends ---

    /// @notice The client ends the job. State Accepted; the forfeit goes to the worker. Emits {Cancelled}.
    function cancel(Offer calldata offer) external;

    /// @notice The worker ends the job. State Accepted; the forfeit goes to the client. Emits {Resigned}.
    function resign(Offer calldata offer) external;

    /// @notice Anyone ends a job whose worker is late. State Accepted, past the deadline. Emits {Expired}.
    function expire(Offer calldata offer) external;

    // --- drawn verifiers ---

    /// @notice Seals the caller's verdict on the window.
    /// - the caller is drawn, was registered before the draw, is not leaving, still has a bond, has sealed nothing yet
    /// - until drawnAt + verdictWindowS, whether or not a dispute has begun
    /// Emits {VerdictSealed}.
    function sealVerdict(Offer calldata offer, bytes32 seal) external;

    /// @notice Opens the caller's seal; pays verdictFee unless it abstains.
    /// - after drawnAt + verdictWindowS, until drawnAt + 2 * verdictWindowS, whether or not a dispute has begun
    /// - `kind` 1 to 4; the four values give the seal
    /// Emits {VerdictRevealed}.
    function revealVerdict(Offer calldata offer, uint8 kind, uint32 segment, uint128 salt) external;

    // --- views ---

    /// @notice The EIP-712 digest of the offer: what the worker signs and what names the job.
    function jobId(Offer calldata offer) external view returns (bytes32);

    function job(bytes32 id) external view returns (Job memory);

    /// @notice Root committed for a window, zero before.
    function windowRoot(bytes32 id, uint16 window) external view returns (bytes32);

    function dispute(bytes32 id) external view returns (Dispute memory);

    function verdict(bytes32 id, uint16 window, address verifier) external view returns (Verdict memory);

    /// @notice Who was drawn in the last draw of the job (places that are empty now, or taken since, are left out).
    function drawnVerifiers(Offer calldata offer) external view returns (address[] memory);

    /// @notice Places in the window that `verifier` drew in the job's last draw, by the salt it revealed.
    function sample(Offer calldata offer, uint16 window, address verifier) external view returns (uint256[] memory);

    /// @notice Client's units still locked for a live job; 0 in a final state.
    function escrowLeft(Offer calldata offer) external view returns (uint256);

    function params() external view returns (Params memory);
}
