"""Messages about calls to other nodes by the documented formulas, made without meshos."""

import struct

import journals


def frames(spawn: bytes) -> bytes:
    """One of each message, each after its length."""
    options = struct.pack("<QI4BIQIIQ", 0, 10_000, 0, 0, 1, 0, 10_000, 64 << 20, 5, 2, 0)
    stored = journals.summed(struct.pack("<BH", 2, 7) + b"counter" + options + b"\1\0")
    text = b"ValueError: no"
    bodies = [
        (96, spawn + struct.pack("<I", len(stored)) + stored),
        (97, struct.pack("<Q", 7)),
        (98, struct.pack("<Q", 8)),
        (99, struct.pack("<Q", 1 << 20)),
        (100, b""),
        (101, struct.pack("<Q", 5) + b"\t" * 32),
        (102, struct.pack("<QI", 3, 4) + b"part"),
        (103, b"\4\1" + b"\4" * 32 + struct.pack("<QI", 3, 0)),
        (103, b"\t\0" + struct.pack("<I", len(text)) + text),
        (104, b""),
    ]
    framed = [bytes([1, kind]) + b"a call, 16 bytes" + body for kind, body in bodies]
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in framed)
