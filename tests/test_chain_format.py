"""The program on the page about chain files accepts what `export_chain` writes, and nothing that was changed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

import daemons
import reference
from meshos import DaemonHostConfig, Identity, StateSnapshot, verify_chain
from meshos.errors import ChainError
from meshos.identity import EntityId
from pages import ROOT, blocks, read

(PROGRAM,) = blocks(read("docs/chain-format.md"), "python")
GOLDEN = ROOT / "tests/data/chain_export_v1.bin"
ALICE, NODE, OTHER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
ALICE_ID = reference.entity_id(ALICE)

Check = Callable[[bytes, bytes], tuple[int, bytes]]


def program() -> Check:
    """Return the function of the page."""
    names: dict[str, Any] = {"__name__": "check"}
    exec(compile(PROGRAM, "docs/chain-format.md", "exec"), names)
    check: Check = names["check"]
    return check


check = program()


def refuses(data: bytes, entity: bytes) -> bool:
    try:
        check(data, entity)
    except (SystemExit, Exception):
        return True
    return False


def export(folder: Path, outputs_max: int = 10_000, *, rewind: bool = False) -> tuple[EntityId, Path]:
    """Export a chain of eight events; with `rewind`, two of them took the place of two that were rolled back."""
    identity = Identity.from_seed(bytes(range(32)))
    config = DaemonHostConfig(outputs_max=outputs_max)
    file = folder / "counter.chain"
    with daemons.node(counter=daemons.Counter) as runtime:
        origin = runtime.spawn("counter", identity, config).origin_hash
        for number in range(1, 7):
            runtime.deliver(origin, daemons.numbered(number))
        snapshot = runtime.snapshot(origin)
        assert isinstance(snapshot, StateSnapshot)
        for number in (7, 8):
            runtime.deliver(origin, daemons.numbered(number))
        if rewind:
            runtime.stop(origin)
            runtime.spawn_from_snapshot("counter", identity, snapshot, config, rewind=True)
            for number in (7, 8):
                runtime.deliver(origin, daemons.numbered(number, 2))
        runtime.export_chain(origin, file)
    return identity.entity_id, file


def run(folder: Path, file: Path, entity: bytes) -> "subprocess.CompletedProcess[str]":
    pasted = folder / "check.py"
    pasted.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-I", "-W", "error", str(pasted), str(file), entity.hex()]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_the_pasted_program_accepts_a_chain(tmp_path: Path) -> None:
    entity, file = export(tmp_path)

    done = run(tmp_path, file, entity)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"8 {verify_chain(file, entity).digest.hex()}\n"


def test_the_pasted_program_refuses_a_changed_chain_with_exit_code_1(tmp_path: Path) -> None:
    entity, file = export(tmp_path)
    data = bytearray(file.read_bytes())
    data[-41] ^= 1  # the last byte of the last payload
    file.write_bytes(data)

    done = run(tmp_path, file, entity)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "refused: event 8 is what was signed\n"


def test_the_program_imports_nothing_of_meshos() -> None:
    assert "meshos" not in "".join(line for line in PROGRAM.splitlines() if "import" in line)


@pytest.mark.parametrize("options", [{}, {"outputs_max": 3}, {"rewind": True}], ids=str)
def test_program_and_package_find_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    entity, file = export(tmp_path, **options)

    report = verify_chain(file, entity)

    assert check(file.read_bytes(), entity) == (report.last_sequence, report.digest)


def test_the_released_file_is_accepted() -> None:
    data = GOLDEN.read_bytes()
    report = verify_chain(GOLDEN, EntityId(data[8:40]))
    assert check(data, data[8:40]) == (report.last_sequence, report.digest)


@pytest.mark.parametrize("options", [{}, {"rewind": True}], ids=str)
def test_every_changed_byte_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    entity, file = export(tmp_path, **options)
    data = bytearray(file.read_bytes())
    accepted = []
    for offset in range(len(data)):
        data[offset] ^= 1 << offset % 8
        if not refuses(bytes(data), entity):
            accepted.append(offset)
        data[offset] ^= 1 << offset % 8
    assert accepted == []


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    entity, file = export(tmp_path)
    data = file.read_bytes()
    assert [size for size in range(len(data)) if not refuses(data[:size], entity)] == []
    assert refuses(data + b"\0", entity)


def test_another_entity_is_refused(tmp_path: Path) -> None:
    _, file = export(tmp_path)
    assert refuses(file.read_bytes(), ALICE_ID)


Signed = tuple[str, SigningKey, SigningKey, int]


@pytest.mark.parametrize(
    ("later", "good"),
    [
        (("restart", NODE, ALICE, 2), True),
        (("restart", NODE, NODE, 2), True),
        (("restart", OTHER, NODE, 2), False),
        (("takeover", OTHER, ALICE, 2), True),
        (("takeover", OTHER, OTHER, 2), False),
        (("move", OTHER, NODE, 3), True),
        (("move", OTHER, OTHER, 3), False),
        (("move", OTHER, NODE, 2), False),  # the node had signed a checkpoint at 3
        (("spawn", NODE, ALICE, 0), False),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_who_may_sign_is_judged_as_the_package_does(tmp_path: Path, later: Signed, good: bool) -> None:
    reason, node, signer, start = later
    chain = reference.Chain(ALICE_ID)
    for number in range(4):
        chain.append(b"%d" % number)
    digests = chain.digests

    def certificate(epoch: int, speaks: SigningKey, at: int, why: str, signs: SigningKey) -> bytes:
        return reference.certificate(ALICE_ID, epoch, reference.entity_id(speaks), at, digests[at], why, signs)

    first = reference.checkpoint(ALICE_ID, 1, 3, digests[3], 1, NODE, reference.ZERO)
    second = reference.checkpoint(ALICE_ID, 2, 4, digests[4], 2, node, reference.checkpoint_digest(first))
    certificates = [certificate(1, NODE, 0, "spawn", ALICE), certificate(2, node, start, reason, signer)]
    data = reference.export(ALICE_ID, certificates, [first, second], chain.events)
    file = tmp_path / "story.chain"
    file.write_bytes(data)

    if good:
        report = verify_chain(file, EntityId(ALICE_ID))
        assert check(data, ALICE_ID) == (report.last_sequence, report.digest)
    else:
        assert refuses(data, ALICE_ID)
        with pytest.raises(ChainError):
            verify_chain(file, EntityId(ALICE_ID))
