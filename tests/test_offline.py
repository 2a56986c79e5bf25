"""The example that signs offline reads, shows and signs envelopes as the extension does, and never imports it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import envelopes
from envelopes import Admin, Header, Ice, key, resealed, text
from meshos.operator import OperatorKey
from pages import ROOT

VECTORS = envelopes.vectors()
ADMIN = envelopes.admin_vectors()["drop_replicas"]
ICE = envelopes.ice_vectors()["everything"]
UNSIGNED = replace(ICE, signatures=())
every_vector = pytest.mark.parametrize("name", VECTORS)
PROGRAM = ROOT / "examples" / "offline_sign.py"
ALONE = """
import runpy, sys
sys.modules["meshos"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


def offline(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the program where meshos cannot be imported."""
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=50)


def test_the_program_is_one_page_and_names_no_meshos() -> None:
    source = PROGRAM.read_text(encoding="utf-8")

    assert "import meshos" not in source
    assert "from meshos" not in source


@every_vector
def test_offline_an_envelope_is_shown(name: str, tmp_path: Path) -> None:
    envelope = VECTORS[name]
    file = tmp_path / "envelope"
    file.write_bytes(envelope.encode())

    done = offline("show", file)

    assert (done.returncode, done.stderr) == (0, "")
    assert envelope.header.envelope_id.hex() in done.stdout
    assert text(envelope.action if isinstance(envelope, Ice) else envelope.event, "kind") in done.stdout
    assert done.stdout.count("\nsigned by:") == len(envelope.signatures)
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("armoured", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("unsigned", [replace(ADMIN, signatures=()), UNSIGNED], ids=["admin", "ice"])
def test_offline_a_signature_is_added(unsigned: Admin | Ice, armoured: bool, tmp_path: Path) -> None:
    file = tmp_path / "envelope"
    file.write_bytes(unsigned.armoured().encode() if armoured else unsigned.encode())
    for seed in (1, 2):
        OperatorKey(key(seed)).save(tmp_path / f"{seed}.key")
        done = offline("sign", file, "--key", tmp_path / f"{seed}.key", "--yes")
        assert (done.returncode, done.stderr) == (0, "")

    expected = unsigned.signed(key(1), key(2)) if isinstance(unsigned, Ice) else unsigned.signed(key(2))
    assert file.read_bytes() == (expected.armoured().encode() if armoured else expected.encode())
    assert offline("sign", file, "--key", tmp_path / "2.key", "--yes").returncode == 0
    assert file.read_bytes() == (expected.armoured().encode() if armoured else expected.encode())
    assert {path.name for path in tmp_path.iterdir()} == {"envelope", "1.key", "2.key"}


def test_offline_nobody_signs_unasked(tmp_path: Path) -> None:
    file = tmp_path / "envelope"
    file.write_bytes(UNSIGNED.encode())
    OperatorKey(key(1)).save(tmp_path / "key")

    done = offline("sign", file, "--key", tmp_path / "key")

    assert (done.returncode, done.stderr) == (8, "not signed\n")
    assert file.read_bytes() == UNSIGNED.encode()


def test_offline_what_was_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "envelope"
    data = ICE.encode()
    hash_at = data.index(ICE.blast.hash())
    for bad in (
        data[:-1],
        changed(data, 20, b"\xff"),
        resealed(changed(data[:-4], hash_at, bytes(32))),
        resealed(data[:-4] + b"\0"),
        ICE.armoured().replace("ICE", "ADMIN").encode(),
        b"",
        b"-----BEGIN",
    ):
        file.write_bytes(bad)
        done = offline("show", file)
        assert done.returncode == 1
        assert done.stderr.startswith("refused: ")


def test_offline_a_forged_signature_shows(tmp_path: Path) -> None:
    file = tmp_path / "envelope"
    (public_key, signature), *rest = ICE.signatures
    file.write_bytes(replace(ICE, signatures=[(public_key, changed(signature, 40, b"\0\0")), *rest]).encode())

    done = offline("show", file)

    assert done.stdout.count("\nNOT SIGNED by") == 1
    assert done.stdout.count("\nsigned by") == len(rest)


def test_offline_foreign_text_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "envelope"
    reason = "harmless\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}\n\rsigned by: you"
    file.write_bytes(replace(UNSIGNED, header=replace(Header(), reason=reason)).encode())

    done = offline("show", file)

    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()
    assert "\nsigned by" not in done.stdout
