"""Detection of a worker that fakes a share of a window's segments: the odds that the plan screen shows, against draws.

The draws are made by the protocol's own code from random seeds and salts, the faked segments are random too. Prints,
per share and sample size, the predicted and the seen rate of windows in which a verifier met a faked segment.
"""

from __future__ import annotations

import argparse
import math
import random
import sys

import table

from tolsey.protocol.sampling import detection_odds, verifier_sample

SEGMENTS = 100
VERIFIERS = 2


def seen_rate(faked: int, samples: int, windows: int, source: random.Random) -> float:
    """Share of `windows` simulated windows in which one of VERIFIERS verifiers drew a faked segment."""
    caught = 0
    for _ in range(windows):
        seed = source.getrandbits(112)
        bad = set(source.sample(range(SEGMENTS), faked))
        caught += any(
            not bad.isdisjoint(verifier_sample(seed, source.getrandbits(128), SEGMENTS, samples))
            for _ in range(VERIFIERS)
        )
    return caught / windows


def main() -> int:
    """Prints the table; 1 where what was seen is no sample of what was predicted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    windows = 1_000 if parser.parse_args().quick else 10_000
    source = random.Random(20_26)
    print(f"{SEGMENTS} segments a window, {VERIFIERS} verifiers, {windows} simulated windows a row\n")
    table.head()
    met = []
    for faked in (1, 5, 10, 20):
        for samples in (2, 11, 22, 45):
            predicted = detection_odds(SEGMENTS, faked, [samples] * VERIFIERS)
            seen = seen_rate(faked, samples, windows, source)
            # Four standard errors, and half a window where the rate is all but 1.
            most = 4 * math.sqrt(predicted * (1 - predicted) / windows) + 0.5 / windows
            measured = f"{seen:.2%} of windows catch it, {predicted:.2%} predicted"
            what = f"{faked} % of segments faked, {samples} samples a verifier"
            met.append(table.row(what, measured, f"within {most:.2%}", abs(seen - predicted) <= most))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
