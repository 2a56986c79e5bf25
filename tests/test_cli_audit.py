"""Files of records from a shell: shown, filtered, checked, and refused with the first record that does not fit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from meshos import cli
from meshos.audit import (
    ActionRecord,
    AdminAuditRecord,
    FailureRecord,
    FailureSource,
    FileActionAppender,
    FileAdminAuditAppender,
    FileFailureAppender,
    FileLogAppender,
    LogRecord,
    verify_records,
)
from meshos.cli import ExitCode
from meshos.events import Cordon, LogLevel
from meshos.identity import Identity
from meshos.operator import FreezeCluster, Verdict
from test_cli_operator import checked

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SIGNER, STRANGER = (Identity.from_seed(bytes([number]) * 32) for number in (7, 8))
EVIL = "\x1b[2J\u202e\n"


def command(seq: int, **changed: Any) -> AdminAuditRecord:
    fields: dict[str, Any] = {
        "seq": seq,
        "committed_at": NOON + seq * SECOND,
        "event": Cordon(seq),
        "envelope_id": bytes(16),
        "operator_ids": (7,),
        "reason": "disk",
        "verdict": Verdict.ACCEPTED,
        "rejected_kind": None,
    }
    return AdminAuditRecord(**{**fields, **changed})


COMMANDS = (
    command(1),
    command(2, event=FreezeCluster(timedelta(minutes=5)), operator_ids=(7, 8)),
    command(3, verdict=Verdict.REJECTED, rejected_kind="replayed", times=4, envelope_id=None, reason=EVIL),
    command(4, operator_ids=()),
)


def written(file: Path, records: tuple[Any, ...] = COMMANDS, cls: Any = FileAdminAuditAppender, **options: Any) -> Path:
    appender = cls(file, **options)
    for record in records:
        appender.append(record)
    appender.close()
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "audit.chain")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[ExitCode, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ExitCode(code), out, err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = told(capsys, *arguments, "--json")
    assert err == ""
    return checked(arguments, code, out)


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        ([], [1, 2, 3, 4]),
        (["--since", "2"], [3, 4]),
        (["--since", "2026-11-21T12:00:02.123Z"], [3, 4]),
        (["--since", "2026-11-21T13:00:02.122+01:00"], [2, 3, 4]),
        (["--operator", "8"], [2]),
        (["--operator", "0x7", "--verdict", "accepted"], [1, 2]),
        (["--verdict", "rejected"], [3]),
        (["--verdict", "unverified"], []),
        (["--kind", "freeze_cluster"], [2]),
        (["--kind", "cordon", "--since", "1"], [3, 4]),
        (["--kind", "nothing"], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_records_are_shown_that_fulfil_every_condition(
    conditions: list[str], numbers: list[int], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "audit", "show", file, *conditions)
    code, out, err = told(capsys, "audit", "show", file, *conditions)

    assert [record["seq"] for record in found["records"]] == numbers
    assert (code, err) == (ExitCode.OK, "")
    assert [int(line.split()[0]) for line in out.splitlines()] == numbers


def test_a_record_is_one_line_that_a_terminal_does_not_obey(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(capsys, "audit", "show", file)

    lines = out.splitlines()
    assert lines[0] == (
        "1  2026-11-21T12:00:01.123Z  accepted  cordon node=0x0000000000000001  by 0x0000000000000007: disk"
    )
    assert "freeze_cluster ttl_ms=300000  by 0x0000000000000007,0x0000000000000008" in lines[1]
    assert lines[2].endswith(
        "rejected (replayed, 4 times)  cordon node=0x0000000000000003  by 0x0000000000000007: \\x1b[2J\\u202e\\n"
    )
    assert "by nobody" in lines[3]
    assert out.replace("\n", "").isprintable()


LINE = LogRecord(seq=1, at=NOON, level=LogLevel.WARN, node=1, daemon=7, message=EVIL)
FAILURE = FailureRecord(
    seq=1,
    at=NOON,
    source=FailureSource(part="probe", name=EVIL, target=3, action_id=None, envelope_id=bytes(16)),
    reason="raised",
    traceback="File",
)
ACTION = ActionRecord(
    seq=1, at=NOON, action_id=11, action="start_daemon", disposition="failed", reason=EVIL, retry_after=SECOND
)


@pytest.mark.parametrize(
    ("cls", "record"),
    [(FileLogAppender, LINE), (FileFailureAppender, FAILURE), (FileActionAppender, ACTION)],
    ids=["log", "failure", "action"],
)
def test_records_of_every_sort(cls: Any, record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "records.chain", (record,), cls)

    (found,) = as_json(capsys, "audit", "show", file)["records"]
    _, out, _ = told(capsys, "audit", "show", file)
    assert (found["seq"], found["at"]) == (1, "2026-11-21T12:00:00.123Z")
    assert out.startswith("1  2026-11-21T12:00:00.123Z  ")
    assert out.count("\n") == 1
    assert "\\x1b[2J" in out
    assert as_json(capsys, "audit", "show", file, "--operator", "7")["records"] == []
    assert as_json(capsys, "audit", "verify", file)["records"] == 1


def test_a_file_that_holds_is_verified(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify_records(file)
    head = report.head_digest.hex()

    found = as_json(capsys, "audit", "verify", file, "--head", head)
    assert (found["records"], found["first_seq"], found["last_seq"]) == (4, 1, 4)
    assert (found["head_digest"], found["signed_through"]) == (head, 0)
    code, out, _ = told(capsys, "audit", "verify", file)
    assert (code, out.splitlines()[0]) == (ExitCode.OK, "ok: 4 records")


def test_what_nobody_signed_for_fails(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed = written(tmp_path / "signed.chain", signer=SIGNER)
    good = as_json(capsys, "audit", "verify", signed, "--signer", SIGNER.entity_id.hex())
    assert (good["ok"], good["signed_through"]) == (True, 4)
    code, out, _ = told(capsys, "audit", "verify", file, "--signer", SIGNER.entity_id.hex())
    assert (code, out.splitlines()[0]) == (
        ExitCode.FAILED,
        "FAILED: records 1 to 4 are not signed for: 4 records",
    )
    assert as_json(capsys, "audit", "verify", file, "--signer", SIGNER.entity_id.hex())["ok"] is False
    assert as_json(capsys, "audit", "verify", signed, "--signer", STRANGER.entity_id.hex())["ok"] is False


def test_verify_knows_a_file_of_records(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "verify", file)
    assert (code, out.splitlines()[0]) == (ExitCode.OK, "ok: 4 records")
    assert told(capsys, "verify", file, "--entity", SIGNER.entity_id.hex())[0] is ExitCode.FAILED
    signed = written(file.with_name("signed.chain"), signer=SIGNER)
    assert told(capsys, "verify", signed, "--entity", SIGNER.entity_id.hex())[0] is ExitCode.OK
    data = bytearray(signed.read_bytes())
    data[-1] ^= 1
    signed.write_bytes(data)
    code, _, err = told(capsys, "verify", signed)
    assert code is ExitCode.FAILED
    assert err.startswith(f"meshos: {signed}: ")
    assert as_json(capsys, "audit", "verify", signed)["ok"] is False


def test_every_changed_byte_is_found_and_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = file.read_bytes()
    head = verify_records(file).head_digest.hex()
    codes = set()

    for offset in range(0, len(good), 7):
        file.write_bytes(good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :])
        found = as_json(capsys, "audit", "verify", file, "--head", head)
        code, _, err = told(capsys, "audit", "show", file)
        assert not found["ok"]
        assert found.keys() & {"sequence", "offset"}
        assert err.startswith(f"meshos: {file}: ")
        codes.add(code)

    assert codes == {ExitCode.FAILED, ExitCode.UNREADABLE}


def test_a_cut_is_found_by_who_knows_the_end(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = verify_records(file).head_digest.hex()
    short = written(file.with_name("short.chain"), COMMANDS[:3])
    assert told(capsys, "audit", "verify", short)[0] is ExitCode.OK
    assert told(capsys, "audit", "verify", short, "--head", head)[0] is ExitCode.FAILED


@pytest.mark.parametrize("verb", ["show", "verify"])
@pytest.mark.parametrize("content", [None, b"", b"no records", bytes(4096)], ids=["missing", "empty", "text", "zeros"])
def test_what_is_no_file_of_records_cannot_be_read(
    verb: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.txt"
    if content is not None:
        file.write_bytes(content)
    code, out, err = told(capsys, "audit", verb, file)
    assert (code, out) == (ExitCode.UNREADABLE, "")
    assert err.startswith(f"meshos: {file}: ")
    assert err.count("\n") == 1
    assert as_json(capsys, "audit", verb, file)["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit"],
        ["audit", "show"],
        ["audit", "show", "x", "--since", "yesterday"],
        ["audit", "show", "x", "--since", "2026-11-21T12:00:00"],
        ["audit", "show", "x", "--since", "-1"],
        ["audit", "show", "x", "--verdict", "maybe"],
        ["audit", "verify", "x", "--signer", "00"],
        ["audit", "verify", "x", "--head", "xy" * 32],
        ["audit", "tail"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, *arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("usage: meshos")


def test_a_signer_that_is_no_key_is_a_wrong_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "audit", "verify", file, "--signer", "ff" * 32)[0] is ExitCode.USAGE
    assert json.loads(told(capsys, "audit", "verify", file, "--signer", "ff" * 32, "--json")[1])["ok"] is False
