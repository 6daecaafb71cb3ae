#!/usr/bin/env python3
"""Makes a disk image of a known mix, or changes a known part of one. The same arguments give the same bytes.

    mkimage.py OUT [--size 4G] [--seed 1]
    mkimage.py IMAGE --change PERCENT [--extent 64K] [--extents OUT.json] [--seed 1]

The mix: 40 % holes, 30 % random bytes, 30 % text (about 2.5:1 under a fast compressor), in chunks of 256 KiB that come in
runs of 1 to 16, the runs shuffled. With --change, PERCENT of the image gets new random bytes in place, in extents of the given
size scattered evenly at random; the list is written as JSON, as `migratekit copy --extents` reads it.
"""
import argparse
import json
import os
import random
import sys

CHUNK = 256 * 1024
SHARES = {"hole": 40, "noise": 30, "text": 30}
LONGEST_RUN = 16
# Text chunks are cut from this many bytes of generated prose, in pieces of this many.
PROSE, PIECE = 16 << 20, 4096
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size_of(text):
    """A size as people write it: 512, 64K, 4G."""
    unit = UNITS.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def prose(rng):
    """Words of a made-up language, the short ones frequent, as one long text."""
    syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(5000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    stock = [word.encode() + rng.choice((b" ", b" ", b" ", b", ", b".\n")) for word in rng.choices(words, weights, k=200_000)]
    text = b"".join(rng.choices(stock, k=PROSE // 5))
    return (text * (PROSE // len(text) + 1))[:PROSE]


def runs(rng, chunks):
    """Yields (kind, number of chunks) until the image is full and each kind has had its share."""
    left = {kind: chunks * share // 100 for kind, share in SHARES.items()}
    left["text"] += chunks - sum(left.values())
    while any(left.values()):
        kinds = [kind for kind in left if left[kind]]
        kind = rng.choices(kinds, [left[k] for k in kinds])[0]
        length = min(rng.randint(1, LONGEST_RUN), left[kind])
        left[kind] -= length
        yield kind, length


def chunk_of(text, rng):
    """A chunk of pieces of the text."""
    starts = rng.choices(range(PROSE - PIECE), k=CHUNK // PIECE)
    return b"".join(text[start:start + PIECE] for start in starts)


def text(path, size, seed=1):
    """Makes a file of nothing but text."""
    rng = random.Random(seed)
    words = prose(rng)
    with open(path, "wb") as out:
        for at in range(0, size, CHUNK):
            out.write(chunk_of(words, rng)[:size - at])


def make(path, size, seed):
    """Makes the image anew."""
    rng = random.Random(seed)
    text = prose(rng)
    with open(path, "wb") as out:
        out.truncate(size)
        for kind, length in runs(rng, -(-size // CHUNK)):
            if kind == "hole":
                out.seek(length * CHUNK, os.SEEK_CUR)
                continue
            for _ in range(length):
                chunk = rng.randbytes(CHUNK) if kind == "noise" else chunk_of(text, rng)
                out.write(chunk[:max(0, size - out.tell())])


def extents(size, percent, extent, seed):
    """Offsets of the extents to change, ascending."""
    slots = size // extent
    count = max(1, round(slots * percent / 100))
    return sorted(offset * extent for offset in random.Random(seed).sample(range(slots), min(count, slots)))


def change(path, percent, extent, seed):
    """Writes new bytes into scattered extents; gives their list."""
    offsets = extents(os.path.getsize(path), percent, extent, seed)
    rng = random.Random(seed + 1)
    with open(path, "r+b") as image:
        for offset in offsets:
            image.seek(offset)
            image.write(rng.randbytes(extent))
    return [{"offset": offset, "length": extent, "zero": False} for offset in offsets]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", metavar="OUT|IMAGE")
    parser.add_argument("--size", type=size_of, default=4 << 30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--change", type=float, metavar="PERCENT")
    parser.add_argument("--extent", type=size_of, default=64 << 10)
    parser.add_argument("--extents", metavar="FILE", help="where the list goes (default: stdout)")
    args = parser.parse_args()
    if args.change is None:
        make(args.image, args.size, args.seed)
        return
    listed = json.dumps(change(args.image, args.change, args.extent, args.seed))
    if args.extents:
        with open(args.extents, "w", encoding="ascii") as out:
            out.write(listed + "\n")
    else:
        print(listed)


if __name__ == "__main__":
    sys.exit(main())
