"""From checkpoints on disk to the one root that goes on chain.

The root of a window is the Merkle root over the leaves of its segments; an opening is one leaf's roots with its
siblings. Both are functions of the segment table alone, so they are computed when needed and never stored.

It refuses to commit a window with a missing segment, or one whose segments do not follow one another: such a root
would be our own slash (docs/protocol.md section 3, row 14). Next in the flow: worker.py sends it through the
outbox and waits for the draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from tolsey.contracts.actions import Action
from tolsey.contracts.chain import Chain
from tolsey.contracts.views import Opening
from tolsey.errors import LocalViolation
from tolsey.node.records import JobRecord, Records, SegmentRecord
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import WindowRoot
from tolsey.storage.blobs import BlobStore


class Committer:
    """Commits windows and opens segments of them."""

    def __init__(self, chain: Chain, records: Records, blobs: BlobStore) -> None:
        self._chain = chain
        self._records = records
        self._blobs = blobs

    async def is_ready(self, job: JobRecord, window: int) -> bool:
        """Whether every segment of the window is made.

        Raises:
            StorageError: one is made and its checkpoint is gone: committed, it would be demanded and lose the bond.
        """
        indices = job.offer.window_segments(window)
        made = await self._records.segments(job.job_id, indices)
        for record in made:
            self._blobs.path_of(record.checkpoint)
        return len(made) == len(indices)

    async def commitment(self, job: JobRecord, window: int) -> Action:
        """The transaction that puts the window's root on chain."""
        root = WindowRoot(merkle.root(await self.leaves(job, window)))
        return self._chain.gateway.action.commit(job.offer, root)

    async def opening(self, job: JobRecord, segment: int) -> Opening:
        """The opening of `segment` against its window's root."""
        window = segment // job.offer.segments_per_window
        indices = job.offer.window_segments(window)
        leaves = await self.leaves(job, window)
        record = (await self._segments(job, window))[segment - indices.start]
        return Opening(
            segment=segment,
            input_root=record.input_root,
            output_root=record.output_root,
            siblings=tuple(merkle.proof(leaves, segment - indices.start)),
        )

    async def leaves(self, job: JobRecord, window: int) -> list[bytes]:
        """The leaves of the window's segments, in order."""
        domain = self._chain.gateway.domain
        return [leaf_of(job, record, domain) for record in await self._segments(job, window)]

    async def _segments(self, job: JobRecord, window: int) -> list[SegmentRecord]:
        indices = job.offer.window_segments(window)
        first = max(indices.start - 1, 0)
        found = await self._records.segments(job.job_id, range(first, indices.stop))
        self.check(job, found, range(first, indices.stop))
        return found[indices.start - first :]

    def check(self, job: JobRecord, found: Sequence[SegmentRecord], indices: range) -> None:
        """Accepts segments that are all there and follow one another from the root before.

        Raises:
            LocalViolation: they are not or do not; committing them would lose the bond.
        """
        if [record.index for record in found] != list(indices):
            raise LocalViolation(f"segments {indices} are due, on record are {[r.index for r in found][:8]}")
        before = job.offer.initial_root if indices.start == 0 else found[0].input_root
        for record in found:
            if record.input_root != before:
                raise LocalViolation(
                    f"segment {record.index} starts at {record.input_root.hex()[:16]}, "
                    f"the one before ended at {before.hex()[:16]}"
                )
            before = record.output_root


def leaf_of(job: JobRecord, record: SegmentRecord, domain: Domain) -> bytes:
    """The 32-byte leaf of one finished segment."""
    return segment_leaf(
        chain_id=domain.chain_id,
        market=domain.market,
        job_id=job.job_id,
        worker=job.offer.worker,
        index=record.index,
        input_root=record.input_root,
        output_root=record.output_root,
    )
