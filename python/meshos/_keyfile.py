"""Key files of operators, version 1: `docs/authority.md` has their bytes.

A file is made private in one step and appears under its name as a whole. What is in it is in no error.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from typing import NamedTuple
from unicodedata import normalize

from meshos._place import place
from meshos.errors import InvalidArgument, KeyFileError

MAGIC = b"MOSK"
VERSION = 1
PLAIN, SEALED = 0, 1
HEAD = struct.Struct("<4sBB32s")
SEAL = struct.Struct("<QQ16s24s")
BOX_BYTES = 48
CRC = struct.Struct("<I")
FILE_BYTES = {PLAIN: HEAD.size + 32 + CRC.size, SEALED: HEAD.size + SEAL.size + BOX_BYTES + CRC.size}
OPS_MAX = 16
MEMORY_MAX = 1 << 30
"""The most work that a file may ask for: 16 passes over 1 GiB."""


def read(path: str, passphrase: str | None) -> bytes:
    """Return the seed in a file; raises `KeyFileError`."""
    form, public_key, body = _parts(path)
    if (form == SEALED) != (passphrase is not None):
        raise KeyFileError("passphrase", path)
    seed = body if passphrase is None else _opened(body, _secret(passphrase), path)

    from nacl.signing import SigningKey

    if bytes(SigningKey(seed).verify_key) != public_key:
        raise KeyFileError("unreadable", path)
    return seed


class Look(NamedTuple):
    """What a key file says without its passphrase."""

    public_key: bytes
    sealed: bool


def look(path: str) -> Look:
    """Return what stands in a file for everybody who may read it; raises `KeyFileError`.

    Of a sealed file nobody can tell without the passphrase whether the key in it is the one that is named.
    """
    form, public_key, _ = _parts(path)
    return Look(public_key, form == SEALED)


def write(path: str, seed: bytes, public_key: bytes, passphrase: str | None, *, replace: bool = False) -> None:
    """Write a new file, or one in the place of another key file if it may `replace`; raises `KeyFileError`."""
    form = PLAIN if passphrase is None else SEALED
    body = seed if passphrase is None else _sealed(seed, _secret(passphrase))
    data = HEAD.pack(MAGIC, VERSION, form, public_key) + body
    data += CRC.pack(zlib.crc32(data))
    replace = replace and _is_there(path)
    if replace:
        _parts(path)
    try:
        place(path, data, 0o600, replace=replace)
    except FileExistsError as error:
        raise KeyFileError("exists", path) from error
    except (OSError, ValueError) as error:
        raise KeyFileError("unreadable", path) from error


# ---------------------------------------------------------------- the passphrase


def _secret(passphrase: str) -> bytes:
    if not passphrase:
        raise InvalidArgument("passphrase", "must not be empty")
    try:
        # The same text typed on another system may have other code points.
        return normalize("NFC", passphrase).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("passphrase", "must be Unicode text") from None


def _sealed(seed: bytes, secret: bytes) -> bytes:
    from nacl.pwhash import argon2id
    from nacl.secret import SecretBox
    from nacl.utils import random

    ops, memory = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
    salt, nonce = random(argon2id.SALTBYTES), random(SecretBox.NONCE_SIZE)
    key = argon2id.kdf(SecretBox.KEY_SIZE, secret, salt, opslimit=ops, memlimit=memory)
    return SEAL.pack(ops, memory, salt, nonce) + SecretBox(key).encrypt(seed, nonce).ciphertext


def _opened(body: bytes, secret: bytes, path: str) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.pwhash import argon2id
    from nacl.secret import SecretBox

    ops, memory, salt, nonce = SEAL.unpack_from(body)
    least = (argon2id.OPSLIMIT_MIN, argon2id.MEMLIMIT_MIN)
    if not (least[0] <= ops <= OPS_MAX and least[1] <= memory <= MEMORY_MAX):
        raise KeyFileError("unreadable", path)
    key = argon2id.kdf(SecretBox.KEY_SIZE, secret, salt, opslimit=ops, memlimit=memory)
    try:
        return SecretBox(key).decrypt(body[SEAL.size :], nonce)
    except CryptoError:
        raise KeyFileError("passphrase", path) from None


# ---------------------------------------------------------------- the file


def _is_there(path: str) -> bool:
    """Whether something has the name; that it cannot be told is an error, and not a no."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise KeyFileError("unreadable", path) from error
    return True


def _parts(path: str) -> tuple[int, bytes, bytes]:
    """Return form, public key and body of a file."""
    data = _contents(path)
    if not (len(data) >= HEAD.size and data.startswith(MAGIC) and data[4] == VERSION):
        raise KeyFileError("unreadable", path)
    _, _, form, public_key = HEAD.unpack_from(data)
    if len(data) != FILE_BYTES.get(form) or CRC.pack(zlib.crc32(data[: -CRC.size])) != data[-CRC.size :]:
        raise KeyFileError("unreadable", path)
    return form, public_key, data[HEAD.size : -CRC.size]


def _contents(path: str) -> bytes:
    """Read a small private file; anything else is refused before it is read."""
    try:
        # What is opened is what is looked at. A pipe is opened without waiting for its other end.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError("unreadable", path)
            if os.name == "posix" and found.st_mode & 0o077:
                raise KeyFileError("not_private", path)
            return os.read(handle, 4096)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        raise KeyFileError("unreadable", path) from error
