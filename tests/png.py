"""
Pictures for the documentation, small enough to be kept in git.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate, chain


def smaller(png: bytes) -> bytes:
    """
    Return the picture with at most 256 colours, a third of the size. https://www.w3.org/TR/png-3/
    """
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) in ((8, 2), (8, 6)), "Chromium writes RGB or RGBA, 8 bits each"
    at, packed = 33, b""
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        packed += png[at + 8 : at + 8 + size] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    step = 3 if kind == 2 else 4
    lines = list(_unfiltered(zlib.decompress(packed), width, height, step=step))
    # Half of the lines of a page are like another.
    pixels = {line: list(zip(line[0::step], line[1::step], line[2::step], strict=True)) for line in {*lines}}
    # The finest step that leaves few enough colours.
    for coarse in (1, 3, 7, 15, 31, 63):
        numbers: dict[tuple[int, ...], int] = {}
        known = {
            colour: numbers.setdefault(tuple(part | coarse for part in colour), len(numbers))
            for colour in set().union(*pixels.values())
        }
        if len(numbers) <= 256:
            break
    numbered = {line: b"\0" + bytes(map(known.__getitem__, colours)) for line, colours in pixels.items()}
    rows = b"".join(numbered[line] for line in lines)
    palette = b"".join(map(bytes, numbers))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    return png[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _unfiltered(data: bytes, width: int, height: int, *, step: int) -> Iterator[bytes]:
    """
    Yield each line, *step* bytes for each pixel.
    """
    size = width * step
    above = bytes(size)
    for start in range(0, (size + 1) * height, size + 1):
        kind, line = data[start], data[start + 1 : start + 1 + size]
        if kind == 1:
            parts = [accumulate(line[part::step], _add) for part in range(step)]
            line = bytes(chain.from_iterable(zip(*parts, strict=True)))
        elif kind == 2:
            line = bytes(map(_add, line, above)) if any(line) else above
        elif kind:
            line = _predicted(line, above, step=step, is_average=kind == 3)
        yield line
        above = line


def _add(one: int, other: int) -> int:
    return one + other & 255


def _predicted(line: bytes, above: bytes, *, step: int, is_average: bool) -> bytes:
    found = bytearray(step) + line
    above = bytes(step) + above
    for i in range(step, len(found)):
        left, up = found[i - step], above[i]
        if is_average:
            guess = (left + up) // 2
        else:
            corner = above[i - step]
            to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            nearer = left if to_left <= to_up else up
            guess = nearer if min(to_left, to_up) <= to_corner else corner
        found[i] = found[i] + guess & 255
    return bytes(found[step:])
