# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Files in pieces, and files that would run code."""

import random
from pathlib import Path


def with_flipped_bits(source: Path, target: Path, seed: int, part: slice) -> Path:
    """Copy a file with eight bits flipped in a part of it."""
    content = bytearray(source.read_bytes())
    rng = random.Random(seed)  # noqa: S311  # no secret
    places = range(len(content))[part]
    for _ in range(8):
        content[rng.choice(places)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)
    return target


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
