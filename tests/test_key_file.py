"""Key files: private, whole, and openable by nobody who should not; what is in them is in no error."""

import os
import stat
import struct
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from nacl.signing import SigningKey

from envelopes import key
from meshos import _keyfile
from meshos.errors import InvalidArgument, KeyFileError
from meshos.operator import OperatorKey

ALICE = key(1)
SECRET = bytes(ALICE)
PASSPHRASE = "correct horse"
SECRETS = (SECRET, SECRET.hex().encode(), PASSPHRASE.encode(), repr(SECRET).encode())
posix = pytest.mark.skipif(os.name != "posix", reason="files have modes on POSIX")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seals with little work: what is tried is the file, not the time it takes to open one."""
    monkeypatch.setattr(argon2id, "OPSLIMIT_MODERATE", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A name that nothing has; nothing else may be left beside it."""
    path = tmp_path / "alice.key"
    yield path
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "other"}


def refused(call: Callable[[], object], kind: str, path: Path) -> KeyFileError:
    with pytest.raises(KeyFileError) as caught:
        call()
    error = caught.value
    assert (error.kind, error.path) == (kind, str(path))
    shown = "".join(traceback.format_exception(error)).encode()
    assert not [secret for secret in SECRETS if secret in shown]
    return error


@pytest.mark.parametrize(
    "passphrase", [None, "correct horse", "x", "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve", "x" * 5000]
)
def test_a_key_is_saved_and_loaded(passphrase: str | None, file: Path) -> None:
    OperatorKey(ALICE).save(file, passphrase=passphrase)

    loaded = OperatorKey.load(str(file), passphrase=passphrase)
    assert loaded == OperatorKey(ALICE)
    assert loaded.verify_key == ALICE.verify_key
    assert (SECRET in file.read_bytes()) is (passphrase is None)


def test_the_bytes_are_as_written_in_the_docs(file: Path) -> None:
    public_key = bytes(ALICE.verify_key)
    OperatorKey(ALICE).save(file)
    plain = b"MOSK\1\0" + public_key + SECRET
    assert file.read_bytes() == plain + struct.pack("<I", zlib.crc32(plain))
    file.unlink()

    OperatorKey(ALICE).save(file, passphrase=PASSPHRASE)
    data = file.read_bytes()
    assert data[:38] == b"MOSK\1\1" + public_key
    passes, memory, salt, nonce = struct.unpack_from("<QQ16s24s", data, 38)
    opened = SecretBox(argon2id.kdf(32, b"correct horse", salt, opslimit=passes, memlimit=memory))
    assert opened.decrypt(data[94:142], nonce) == SECRET
    assert data[142:] == struct.pack("<I", zlib.crc32(data[:142]))


def test_no_two_sealed_files_are_alike(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.key" for number in range(2)]
    for file in files:
        OperatorKey(ALICE).save(file, passphrase="x")

    first, second = (file.read_bytes() for file in files)
    assert first[:38] == second[:38]
    assert first[54:70] != second[54:70]
    assert first[70:94] != second[70:94]


def test_real_files_are_expensive_to_open() -> None:
    """What is asked for is read where it is used, in a process that nobody changed."""
    code = "from nacl.pwhash import argon2id as a; print(a.OPSLIMIT_MODERATE, a.MEMLIMIT_MODERATE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["3", str(256 << 20)]


def test_the_same_passphrase_typed_elsewhere_opens(file: Path) -> None:
    """Systems compose letters and accents differently."""
    OperatorKey(ALICE).save(file, passphrase="nai\N{COMBINING DIAERESIS}ve")

    assert OperatorKey.load(file, passphrase="na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve") == OperatorKey(ALICE)


def test_a_wrong_or_missing_or_needless_passphrase_is_told(tmp_path: Path) -> None:
    sealed, plain = tmp_path / "sealed", tmp_path / "plain"
    OperatorKey(ALICE).save(sealed, passphrase=PASSPHRASE)
    OperatorKey(ALICE).save(plain)

    def load(path: Path, passphrase: str | None) -> None:
        refused(lambda: OperatorKey.load(path, passphrase=passphrase), "passphrase", path)

    load(sealed, PASSPHRASE.upper())
    load(sealed, None)
    load(plain, PASSPHRASE)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_is_private_from_its_first_moment(umask: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    link = os.link

    def looked(draft: str, path: str) -> None:
        modes.append(stat.S_IMODE(os.stat(draft).st_mode))
        link(draft, path)

    monkeypatch.setattr(os, "link", looked)
    before = os.umask(umask)
    try:
        OperatorKey(ALICE).save(file)
    finally:
        os.umask(before)

    assert modes == [0o600]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert OperatorKey.load(file) == OperatorKey(ALICE)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_reach_is_refused(mode: int, file: Path) -> None:
    OperatorKey(ALICE).save(file)
    file.chmod(mode)

    refused(lambda: OperatorKey.load(file), "not_private", file)
    file.chmod(0o400)
    assert OperatorKey.load(file) == OperatorKey(ALICE)


def test_nothing_is_ever_replaced(file: Path) -> None:
    file.write_bytes(b"precious")
    refused(lambda: OperatorKey(ALICE).save(file), "exists", file)
    refused(lambda: OperatorKey(ALICE).save(file, passphrase=PASSPHRASE), "exists", file)

    assert file.read_bytes() == b"precious"


@posix
def test_a_link_that_leads_nowhere_is_not_followed(file: Path) -> None:
    file.symlink_to(file.parent / "other")

    refused(lambda: OperatorKey(ALICE).save(file), "exists", file)
    assert not (file.parent / "other").exists()


def test_a_file_that_came_in_between_is_not_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "rename" if os.name == "nt" else "link"
    place = getattr(os, name)

    def late(draft: str, path: str) -> None:
        Path(path).write_bytes(b"first")
        place(draft, path)

    monkeypatch.setattr(os, name, late)

    refused(lambda: OperatorKey(ALICE).save(file), "exists", file)
    assert file.read_bytes() == b"first"


def test_a_write_that_fails_leaves_nothing_and_says_why(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    error = refused(lambda: OperatorKey(ALICE).save(file), "unreadable", file)
    assert isinstance(error.__cause__, OSError)
    assert not file.exists()
    missing = file.parent / "missing" / "alice.key"
    assert isinstance(refused(lambda: OperatorKey(ALICE).save(missing), "unreadable", missing).__cause__, OSError)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    error = refused(lambda: OperatorKey.load(missing), "unreadable", missing)
    assert isinstance(error.__cause__, FileNotFoundError)
    refused(lambda: OperatorKey.load(tmp_path), "unreadable", tmp_path)
    nul = Path("a\0b")
    refused(lambda: OperatorKey.load(nul), "unreadable", nul)
    refused(lambda: OperatorKey(ALICE).save(nul), "unreadable", nul)


@posix
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)

    refused(lambda: OperatorKey.load(pipe), "unreadable", pipe)


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def resealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def test_every_cut_and_every_bit_is_refused(file: Path) -> None:
    OperatorKey(ALICE).save(file)
    data = file.read_bytes()

    for length in range(len(data)):
        private(file, data[:length])
        refused(lambda: OperatorKey.load(file), "unreadable", file)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        private(file, bytes(changed))
        refused(lambda: OperatorKey.load(file), "unreadable", file)
    for longer in (
        data + b"\0",
        resealed(data[:-4] + b"\0"),
        data + data,
        bytes(1 << 20),
        SECRET,
        SECRET.hex().encode(),
    ):
        private(file, longer)
        refused(lambda: OperatorKey.load(file), "unreadable", file)


def test_halves_that_do_not_belong_together_are_refused(file: Path) -> None:
    other = bytes(key(2).verify_key)

    private(file, resealed(b"MOSK\1\0" + other + SECRET))
    refused(lambda: OperatorKey.load(file), "unreadable", file)
    body = _keyfile._sealed(SECRET, PASSPHRASE.encode())
    private(file, resealed(b"MOSK\1\1" + other + body))
    refused(lambda: OperatorKey.load(file, passphrase=PASSPHRASE), "unreadable", file)


@pytest.mark.parametrize("head", [b"MOSK\0\0", b"MOSK\2\0", b"MOSK\1\2", b"MOSE\1\0", b"mosk\1\0"], ids=repr)
def test_another_form_is_refused(head: bytes, file: Path) -> None:
    private(file, resealed(head + bytes(ALICE.verify_key) + SECRET))

    refused(lambda: OperatorKey.load(file), "unreadable", file)


def test_a_changed_seal_does_not_open(file: Path) -> None:
    OperatorKey(ALICE).save(file, passphrase=PASSPHRASE)
    data = file.read_bytes()[:-4]

    for at in (54, 70, 94, 141):
        changed = bytearray(data)
        changed[at] ^= 1
        private(file, resealed(bytes(changed)))
        refused(lambda: OperatorKey.load(file, passphrase=PASSPHRASE), "passphrase", file)


@pytest.mark.parametrize(
    ("passes", "memory"),
    [(0, 1 << 20), (17, 1 << 20), (2**64 - 1, 1 << 20), (1, 0), (1, (1 << 30) + 1), (1, 2**64 - 1)],
)
def test_a_file_cannot_ask_for_endless_work(passes: int, memory: int, file: Path) -> None:
    body = struct.pack("<QQ16s24s", passes, memory, bytes(16), bytes(24)) + bytes(48)
    private(file, resealed(b"MOSK\1\1" + bytes(ALICE.verify_key) + body))

    refused(lambda: OperatorKey.load(file, passphrase="x"), "unreadable", file)


def test_arguments_are_checked(file: Path) -> None:
    made = OperatorKey(SigningKey(SECRET))
    for bad in (None, 7, b"path", object()):
        with pytest.raises(TypeError):
            made.save(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            OperatorKey.load(bad)  # type: ignore[arg-type]
    for passphrase in (b"x", 7, True):
        with pytest.raises(TypeError, match="passphrase"):
            made.save(file, passphrase=passphrase)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="passphrase"):
            OperatorKey.load(file, passphrase=passphrase)  # type: ignore[arg-type]
    for text in ("", "\ud800"):
        with pytest.raises(InvalidArgument, match="passphrase"):
            made.save(file, passphrase=text)
    assert not file.exists()
    made.save(file, passphrase="x")
    for text in ("", "\ud800"):
        with pytest.raises(InvalidArgument, match="passphrase"):
            OperatorKey.load(file, passphrase=text)


def test_keys_are_loaded_only_where_they_are_used() -> None:
    code = "import sys, meshos.operator; print('nacl' in sys.modules, 'meshos._keyfile' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
