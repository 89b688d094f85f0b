"""Detection of a worker that fakes a share of a window's segments: the odds that the plan screen shows, against draws.

The draws are made by the protocol's own code from random seeds and salts, the faked segments are random too. Prints,
per share and sample size, the predicted and the seen rate of windows in which a verifier met a faked segment.
"""

from __future__ import annotations

import argparse
import random

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    windows = 1_000 if parser.parse_args().quick else 10_000
    source = random.Random(20_26)
    print(f"{SEGMENTS} segments a window, {VERIFIERS} verifiers, {windows} simulated windows a row")
    print(f"{'faked':>6} {'samples each':>13} {'predicted':>10} {'seen':>8}")
    for faked in (1, 5, 10, 20):
        for samples in (2, 11, 22, 45):
            predicted = detection_odds(SEGMENTS, faked, [samples] * VERIFIERS)
            print(f"{faked:>5}% {samples:>13} {predicted:>10.2%} {seen_rate(faked, samples, windows, source):>8.2%}")


if __name__ == "__main__":
    main()
