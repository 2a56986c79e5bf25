"""Files of records: what comes back, what is found out, and what an independent program makes of the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envelopes
import trails
from daemons import PATIENCE
from meshos.audit import (
    ActionChainAppender,
    ActionRecord,
    AdminAuditChainAppender,
    AdminAuditRecord,
    FailureChainAppender,
    FailureRecord,
    FailureSource,
    FileActionAppender,
    FileAdminAuditAppender,
    FileFailureAppender,
    FileLogAppender,
    LogChainAppender,
    LogRecord,
    Record,
    read_records,
    verify_records,
)
from meshos.errors import (
    AppendFailed,
    BadSignature,
    BrokenLink,
    ChainError,
    FileDecodeError,
    IdentityError,
    InvalidArgument,
)
from meshos.events import Cordon, DropReplicas, LogLevel
from meshos.identity import Identity
from meshos.operator import FreezeCluster, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NOON = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
MS = timedelta(milliseconds=1)
NOON_MS = (NOON - datetime(1970, 1, 1, tzinfo=UTC)) // MS
SIGNER = Identity.from_seed(b"\x07" * 32)
STRANGER = Identity.from_seed(b"\x08" * 32)
Appender: TypeAlias = FileAdminAuditAppender | FileLogAppender | FileFailureAppender | FileActionAppender


def audit(seq: int, **changed: Any) -> AdminAuditRecord:
    fields: dict[str, Any] = {
        "seq": seq,
        "committed_at": NOON + seq * MS,
        "event": Cordon(seq),
        "envelope_id": bytes(range(16)),
        "operator_ids": (7, 2**64 - 1),
        "reason": "naïve \N{SKULL}",
        "verdict": Verdict.ACCEPTED,
        "rejected_kind": None,
    }
    return AdminAuditRecord(**{**fields, **changed})


def log(seq: int, **changed: Any) -> LogRecord:
    fields: dict[str, Any] = {
        "seq": seq,
        "at": NOON + seq * MS,
        "level": LogLevel.WARN,
        "node": 1,
        "daemon": None,
        "message": f"line {seq}",
    }
    return LogRecord(**{**fields, **changed})


def failure(seq: int, **changed: Any) -> FailureRecord:
    source = FailureSource(part="probe", name="Pings", target=3, action_id=None, envelope_id=bytes(16))
    fields: dict[str, Any] = {"seq": seq, "at": NOON, "source": source, "reason": "raised", "traceback": "File …\n"}
    return FailureRecord(**{**fields, **changed})


def action(seq: int, **changed: Any) -> ActionRecord:
    fields: dict[str, Any] = {
        "seq": seq,
        "at": NOON,
        "action_id": 11,
        "action": "start_daemon",
        "disposition": "failed",
        "reason": "not yet",
        "retry_after": 20 * MS,
    }
    return ActionRecord(**{**fields, **changed})


KINDS: list[tuple[Any, Callable[[int], Record]]] = [
    (FileAdminAuditAppender, audit),
    (FileLogAppender, log),
    (FileFailureAppender, failure),
    (FileActionAppender, action),
]
every_kind = pytest.mark.parametrize(("cls", "make"), KINDS, ids=lambda one: getattr(one, "__name__", None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.chain"


def write(file: Path, records: Sequence[Record], cls: Any = FileLogAppender, **options: Any) -> bytes:
    """Write a file, and return its bytes."""
    appender = cls(file, **options)
    for record in records:
        appender.append(record)
    appender.close()
    return file.read_bytes()


def refused(file: Path, data: bytes) -> ChainError:
    """The error for a file with these bytes."""
    file.write_bytes(data)
    with pytest.raises(ChainError) as caught:
        verify_records(file)
    return caught.value


# ---------------------------------------------------------------- what comes back


@every_kind
def test_records_come_back(cls: Any, make: Callable[[int], Record], file: Path) -> None:
    records = [make(seq) for seq in range(1, 6)]

    data = write(file, records, cls)

    assert read_records(file) == tuple(records)
    report = verify_records(file)
    assert (report.records, report.first_seq, report.last_seq, report.signed_through) == (5, 1, 5, 0)
    assert verify_records(str(file), head_digest=report.head_digest) == report
    assert trails.checked(data) == (5, report.head_digest, 0)


VARIANTS: list[Record] = [
    audit(1, event=DropReplicas(7, (1, 2)), envelope_id=None, operator_ids=(), reason=""),
    audit(2, event=FreezeCluster(timedelta(minutes=5)), verdict=Verdict.UNVERIFIED),
    audit(3, verdict=Verdict.REJECTED, rejected_kind="replayed", times=2**64 - 1),
    log(1, level=LogLevel.TRACE, daemon=2**64 - 1, message=""),
    log(2, level=LogLevel.ERROR, message="x" * 100_000),
    failure(1, traceback=None, reason=""),
    failure(2, source=FailureSource(part="loop", name="", action_id=2**64 - 1)),
    action(1, disposition="dispatched", retry_after=None, reason=""),
    action(2, action="commit_maintenance_transition", disposition="superseded"),
]


@pytest.mark.parametrize("record", VARIANTS, ids=lambda record: f"{type(record).__name__}-{record.seq}")
def test_every_field_comes_back(record: Record, file: Path) -> None:
    (cls,) = (cls for cls, make in KINDS if type(make(1)) is type(record))

    write(file, [record], cls)

    assert read_records(file) == (record,)


def test_whether_a_record_is_pending_is_not_kept(file: Path) -> None:
    write(file, [log(1, chain_pending=True)])

    assert read_records(file) == (log(1),)


def test_they_are_appenders(file: Path) -> None:
    for (cls, _), abstract in zip(
        KINDS, (AdminAuditChainAppender, LogChainAppender, FailureChainAppender, ActionChainAppender), strict=True
    ):
        appender: Any = cls(file.with_suffix(f".{cls.__name__}"))
        appender.close()
        assert str(file.parent) in repr(appender)
        assert isinstance(appender, abstract)


def test_a_later_run_goes_on(file: Path) -> None:
    write(file, [log(1), log(2)])
    first = verify_records(file)

    data = write(file, [log(1, message="after the restart")])

    report = verify_records(file)
    assert (report.records, report.first_seq, report.last_seq) == (3, 1, 1)
    assert report.head_digest != first.head_digest
    assert [frame.tag for frame in trails.frames(data)] == [trails.RUN, 2, 2, trails.RUN, 2]
    assert [record.seq for record in read_records(file)] == [1, 2, 1]


def test_a_file_without_records_is_one(file: Path) -> None:
    write(file, [])

    assert (verify_records(file).records, verify_records(file).last_seq, read_records(file)) == (0, 0, ())


def test_a_file_may_be_checked_while_it_is_open(file: Path) -> None:
    appender = FileAdminAuditAppender(file)
    for seq in range(1, 4):
        appender.append(audit(seq))
        assert verify_records(file).records == seq
    appender.close()


def test_a_large_file_is_read_in_pieces(file: Path) -> None:
    records = [log(seq, message="x" * 200_000) for seq in range(1, 31)]

    write(file, records)

    assert file.stat().st_size > 3 * 2**20
    assert read_records(file) == tuple(records)
    write(file, [log(31)])
    assert verify_records(file).records == 31


def test_any_thread_may_append(file: Path) -> None:
    appender = FileLogAppender(file)

    def work(thread: int) -> None:
        for number in range(200):
            appender.append(log(thread * 1000 + number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    appender.close()

    kept = [record.seq for record in read_records(file)]
    assert len(kept) == 800
    for number in range(1, 5):
        mine = [seq for seq in kept if seq // 1000 == number]
        assert mine == sorted(mine)


@pytest.mark.skipif(os.name == "nt", reason="modes are of Unix")
def test_nobody_else_may_read_a_new_file(file: Path) -> None:
    write(file, [])

    assert file.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- what is found out


@every_kind
def test_every_flipped_byte_is_found_and_named(cls: Any, make: Callable[[int], Record], file: Path) -> None:
    good = write(file, [make(seq) for seq in range(1, 4)], cls, signer=SIGNER)
    places = [frame.offset for frame in trails.frames(good)]
    tags = [frame.tag for frame in trails.frames(good)]
    assert (tags[0], tags[-1], len(tags)) == (trails.RUN, trails.SIGNED, 5)

    for offset in range(len(good)):
        data = bytearray(good)
        data[offset] ^= 0xFF
        error = refused(file, bytes(data))
        if offset < trails.HEAD_SIZE:
            continue
        # The mark of the run stands before the first record.
        expected = max(sum(place <= offset for place in places) - 1, 1)
        if isinstance(error, BrokenLink | BadSignature):
            assert error.sequence == expected
        else:
            assert f"record {expected}: " in str(error)


def test_every_cut_is_found(file: Path) -> None:
    good = write(file, [log(seq) for seq in range(1, 4)])
    ends = {frame.offset + len(frame.data): number for number, frame in enumerate(trails.frames(good))}
    whole = verify_records(file)

    for length in range(len(good)):
        file.write_bytes(good[:length])
        if length == trails.HEAD_SIZE or length in ends:
            # Nothing in it shows that there was more: only a digest known from elsewhere does.
            assert verify_records(file).records == ends.get(length, 0)
            with pytest.raises(BrokenLink) as caught:
                verify_records(file, head_digest=whole.head_digest)
            assert caught.value.kind == "receipt"
        else:
            with pytest.raises(FileDecodeError):
                verify_records(file)


def test_what_was_removed_swapped_or_repeated_is_named(file: Path) -> None:
    good = write(file, [log(seq) for seq in range(1, 6)])
    head, entries = good[: trails.HEAD_SIZE], [frame.data for frame in trails.frames(good)]

    def error(order: Sequence[int]) -> ChainError:
        return refused(file, head + b"".join(entries[place] for place in order))

    for order, sequence in (
        ((0, 1, 3, 4, 5), 2),
        ((0, 2, 1, 3, 4, 5), 1),
        ((0, 1, 1, 2, 3, 4, 5), 2),
        ((0, 1, 2, 3, 4, 5, 5), 6),
        ((1, 2, 3), 1),
    ):
        found = error(order)
        assert isinstance(found, BrokenLink)
        assert (found.kind, found.sequence) == ("altered", sequence)
        assert found.origin == struct.unpack_from("<Q", good, 8)[0]


def test_an_entry_of_another_file_does_not_fit(file: Path, tmp_path: Path) -> None:
    one = write(file, [log(1)])
    other = write(tmp_path / "other.chain", [log(1)])

    assert refused(file, one[: trails.HEAD_SIZE] + other[trails.HEAD_SIZE :]).kind == "altered"


def test_what_is_no_file_of_records_is_refused(file: Path) -> None:
    for data in (b"", b"MOSR", b"something else entirely, and long enough", bytes(100)):
        error = refused(file, data)
        assert isinstance(error, FileDecodeError)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_bytes_is_passed_over(data: st.DataObject, file: Path) -> None:
    if not file.exists():
        write(file, [log(seq, message="m" * seq) for seq in range(1, 9)])
        file.with_suffix(".good").write_bytes(file.read_bytes())
    good = file.with_suffix(".good").read_bytes()
    file.write_bytes(good)
    whole = verify_records(file)
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        end = data.draw(st.integers(start, min(start + 40, len(changed))))
        changed[start:end] = data.draw(st.binary(max_size=40))
    file.write_bytes(changed)

    if changed == good:
        assert verify_records(file, head_digest=whole.head_digest) == whole
    else:
        with pytest.raises(ChainError):
            verify_records(file, head_digest=whole.head_digest)


messages = st.text(max_size=50)
numbers = st.integers(0, 2**64 - 1)
moments = st.integers(0, 253_402_300_799_999).map(lambda unix_ms: datetime(1970, 1, 1, tzinfo=UTC) + unix_ms * MS)
lines = st.builds(
    LogRecord,
    seq=numbers,
    at=moments,
    level=st.sampled_from(LogLevel),
    node=numbers,
    daemon=st.none() | numbers,
    message=messages,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(lines, max_size=8))
def test_any_records_come_back(records: list[LogRecord], file: Path) -> None:
    file.unlink(missing_ok=True)

    data = write(file, records, signer=SIGNER)

    assert read_records(file) == tuple(records)
    bodies = [frame.body for frame in trails.frames(data) if frame.is_record]
    assert bodies == [
        trails.log(
            record.seq,
            (record.at - datetime(1970, 1, 1, tzinfo=UTC)) // MS,
            level=record.level.value,
            node=record.node,
            daemon=record.daemon,
            message=record.message,
        )
        for record in records
    ]


# ---------------------------------------------------------------- signed heads


def test_a_signer_vouches_when_the_file_is_closed(file: Path) -> None:
    data = write(file, [log(1), log(2)], signer=SIGNER)

    report = verify_records(file, signer=SIGNER.entity_id)

    assert (report.records, report.signed_through) == (2, 2)
    assert trails.checked(data, SIGNER.entity_id) == (2, report.head_digest, 2)
    assert verify_records(file, signer=STRANGER.entity_id).signed_through == 0
    assert verify_records(file).signed_through == 0


def test_a_signer_vouches_now_and_then(file: Path) -> None:
    appender = FileLogAppender(file, signer=SIGNER)
    for seq in range(1, 1500):
        appender.append(log(seq))

    assert verify_records(file, signer=SIGNER.entity_id).signed_through >= 1024
    appender.close()
    assert verify_records(file, signer=SIGNER.entity_id).signed_through == 1499


def test_a_rewritten_tail_is_not_signed(file: Path) -> None:
    good = write(file, [log(1), log(2)], signer=SIGNER)
    run, first, *_ = trails.frames(good)

    forged = trails.Trail("log", good[8:24], struct.unpack_from("<Q", good, 24)[0])
    for body in (run.body, first.body, trails.log(2, NOON_MS, level="info", node=1, daemon=None, message="forged")):
        forged.add(body)
    file.write_bytes(forged.data)

    report = verify_records(file, signer=SIGNER.entity_id)
    assert (report.records, report.signed_through) == (2, 0)


def test_a_signature_of_another_place_is_refused(file: Path) -> None:
    good = write(file, [log(1)], signer=SIGNER)
    *others, signed = trails.frames(good)
    forged = trails.Trail("log", good[8:24], struct.unpack_from("<Q", good, 24)[0])
    for frame in others:
        forged.add(frame.body)
    forged.add(trails.log(2, NOON_MS, level="info", node=1, daemon=None, message="one more"))
    forged.add(signed.body)

    error = refused(file, forged.data)

    assert isinstance(error, BadSignature)
    assert error.sequence == 3


def test_a_signer_must_be_able_to_sign(file: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        FileLogAppender(file, signer=Identity.public_only(SIGNER.entity_id))
    assert caught.value.kind == "read_only"
    assert not file.exists()

    mortal = Identity.generate()
    appender = FileLogAppender(file, signer=mortal)
    appender.append(log(1))
    mortal.erase()
    with pytest.raises(IdentityError):
        appender.close()
    assert verify_records(file).records == 1


# ---------------------------------------------------------------- the same bytes from another program


def bodies() -> dict[str, tuple[list[bytes], list[Record]]]:
    """Of each kind: bodies that the independent program makes, and the records that they are."""
    cordon = envelopes.event_bytes({"kind": "cordon", "node": 1})
    freeze = envelopes.action_bytes({"kind": "freeze_cluster", "ttl_ms": 300_000})
    common: dict[str, Any] = {"operators": (7, 2**64 - 1), "reason": "naïve \N{SKULL}", "envelope_id": bytes(range(16))}
    return {
        "audit": (
            [
                trails.audit(
                    1,
                    NOON_MS + 1,
                    order=cordon,
                    is_ice=False,
                    verdict="accepted",
                    rejected_kind=None,
                    issued_at_ms=NOON_MS,
                    times=1,
                    **common,
                ),
                trails.audit(
                    2,
                    NOON_MS + 2,
                    order=freeze,
                    is_ice=True,
                    verdict="rejected",
                    rejected_kind="signature_invalid",
                    issued_at_ms=None,
                    times=3,
                    **common,
                ),
            ],
            [
                audit(1),
                audit(
                    2,
                    event=FreezeCluster(timedelta(minutes=5)),
                    verdict=Verdict.REJECTED,
                    rejected_kind="signature_invalid",
                    times=3,
                ),
            ],
        ),
        "log": ([trails.log(1, NOON_MS + 1, level="warn", node=1, daemon=None, message="line 1")], [log(1)]),
        "failure": (
            [
                trails.failure(
                    1,
                    NOON_MS,
                    part="probe",
                    name="Pings",
                    target=3,
                    action_id=None,
                    envelope_id=bytes(16),
                    reason="raised",
                    traceback="File …\n",
                )
            ],
            [failure(1)],
        ),
        "action": (
            [
                trails.action(
                    1,
                    NOON_MS,
                    action_id=11,
                    name="start_daemon",
                    disposition="failed",
                    reason="not yet",
                    retry_after_ms=20,
                )
            ],
            [action(1)],
        ),
    }


@pytest.mark.parametrize("kind", trails.KINDS)
def test_a_file_of_another_program_is_read(kind: str, file: Path) -> None:
    made, records = bodies()[kind]
    trail = trails.Trail(kind, bytes(range(16)), NOON_MS)
    trail.add(trails.run(42, NOON_MS))
    for body in made:
        trail.add(body)
    trail.sign(SIGNER.to_signing_key(), NOON_MS)
    file.write_bytes(trail.data)

    assert read_records(file) == tuple(records)
    report = verify_records(file, signer=SIGNER.entity_id, head_digest=trail.digest)
    assert report.signed_through == report.records == len(records)


@pytest.mark.parametrize("kind", trails.KINDS)
def test_what_is_appended_has_the_bytes_of_the_other_program(kind: str, file: Path) -> None:
    made, records = bodies()[kind]
    (cls,) = (cls for cls, make in KINDS if type(make(1)) is type(records[0]))

    data = write(file, records, cls)

    found = [frame.body for frame in trails.frames(data) if frame.is_record]
    if kind == "audit":
        # What is appended by hand does not say when its envelope was made.
        made[0] = made[0].replace(
            trails.number(NOON_MS) + struct.pack("<Q", 1), trails.number(None) + struct.pack("<Q", 1)
        )
    assert found == made


# ---------------------------------------------------------------- who may write


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "audit.chain"
    with pytest.raises(FileNotFoundError) as caught:
        FileAdminAuditAppender(missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError) as caught:
        verify_records(missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(IsADirectoryError):
        FileLogAppender(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a device of Unix")
def test_a_device_is_no_file() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        FileLogAppender("/dev/zero")


def test_one_appender_at_a_time(file: Path) -> None:
    first = FileLogAppender(file)
    with pytest.raises(BlockingIOError, match="another appender has it open") as caught:
        FileLogAppender(file)
    assert caught.value.filename == str(file)
    first.close()
    FileLogAppender(file).close()


def test_another_kind_of_records_is_refused(file: Path) -> None:
    good = write(file, [log(1)])
    with pytest.raises(FileDecodeError, match="it keeps log records, not audit records"):
        FileAdminAuditAppender(file)
    assert file.read_bytes() == good
    appender = FileLogAppender(file)
    with pytest.raises(TypeError, match="record must be a LogRecord, not FailureRecord"):
        appender.append(failure(1))  # type: ignore[arg-type]
    appender.close()


def test_a_broken_file_is_refused_and_left_alone(file: Path) -> None:
    good = write(file, [log(seq) for seq in range(1, 4)])
    broken = bytearray(good)
    broken[len(broken) // 2] ^= 1
    file.write_bytes(broken)

    with pytest.raises(ChainError):
        FileLogAppender(file)

    assert file.read_bytes() == broken


def test_a_changed_length_costs_no_record(file: Path) -> None:
    """A length that reaches past the end is not taken for what a crash left of the last entry."""
    good = write(file, [log(seq) for seq in range(1, 4)])
    second = list(trails.frames(good))[1].offset
    for place in range(second, second + 8):
        broken = bytearray(good)
        broken[place] ^= 0x10
        file.write_bytes(broken)
        with pytest.raises(FileDecodeError):
            FileLogAppender(file)
        assert file.read_bytes() == broken


def test_a_closed_file_takes_no_more(file: Path) -> None:
    appender = FileLogAppender(file)
    appender.append(log(1))
    appender.close()
    appender.close()
    with pytest.raises(AppendFailed, match="it is closed") as caught:
        appender.append(log(2))
    assert str(file) in caught.value.reason
    assert verify_records(file).records == 1


def test_what_has_no_encoding_is_refused_and_the_file_goes_on(file: Path) -> None:
    appender = FileAdminAuditAppender(file)
    for bad in (
        audit(1, verdict=Verdict.REJECTED),
        audit(1, rejected_kind="replayed"),
        audit(1, verdict=Verdict.REJECTED, rejected_kind="out of spite"),
        audit(1, reason="x" * (256 * 1024 + 1)),
        audit(1, operator_ids=tuple(range(4097))),
        audit(1, event=DropReplicas(1, tuple(range(4097)))),
    ):
        with pytest.raises(InvalidArgument):
            appender.append(bad)
    appender.append(audit(1))
    appender.close()
    assert read_records(file) == (audit(1),)
    actions = FileActionAppender(file.with_suffix(".actions"))
    with pytest.raises(InvalidArgument, match="action"):
        actions.append(action(1, action="dance"))
    actions.close()


def test_arguments_are_checked(file: Path) -> None:
    for bad in (None, 7, b"audit.chain", [file]):
        with pytest.raises(TypeError, match="path"):
            FileLogAppender(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="file"):
            verify_records(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="file"):
            read_records(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        FileLogAppender("a\0b")
    with pytest.raises(TypeError, match="signer"):
        FileLogAppender(file, signer=SIGNER.entity_id)  # type: ignore[arg-type]
    write(file, [])
    with pytest.raises(TypeError, match="signer"):
        verify_records(file, signer=SIGNER)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        verify_records(file, head_digest=b"short")


# ---------------------------------------------------------------- when a process or a disk ends

WRITER = """
import sys
from datetime import UTC, datetime
from meshos.audit import FileAdminAuditAppender, AdminAuditRecord
from meshos.events import Cordon
from meshos.operator import Verdict

appender = FileAdminAuditAppender(sys.argv[1])
at = datetime(2026, 11, 21, tzinfo=UTC)
for seq in range(1, 1_000_000):
    appender.append(AdminAuditRecord(
        seq=seq, committed_at=at, event=Cordon(seq), envelope_id=None, operator_ids=(), reason="x" * (seq % 500),
        verdict=Verdict.ACCEPTED, rejected_kind=None,
    ))
    print(seq, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_what_append_returned_of_survives_a_kill(file: Path) -> None:
    acknowledged = 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == 20:
                writer.kill()
    # What the system had taken of one more.
    first = next(trails.frames(file.read_bytes()))
    with file.open("ab") as torn:
        torn.write(first.data[:30])

    appender = FileAdminAuditAppender(file)
    appender.append(audit(7))
    appender.close()

    kept = [record.seq for record in read_records(file)]
    assert kept[:-1] == list(range(1, len(kept)))
    assert len(kept) - 1 >= acknowledged
    assert kept[-1] == 7


def test_a_tail_that_was_cut_anywhere_is_taken_away(file: Path) -> None:
    good = write(file, [log(1), log(2)])
    last = list(trails.frames(good))[-1].offset
    for length in range(last + 1, len(good)):
        file.write_bytes(good[:length])
        appender = FileLogAppender(file)
        appender.append(log(3))
        appender.close()
        assert [record.seq for record in read_records(file)] == [1, 3]
    for length in range(trails.HEAD_SIZE):
        file.write_bytes(good[:length])
        write(file, [log(4)])
        assert read_records(file) == (log(4),)
    file.write_bytes(good + bytes(1000))
    write(file, [log(5)])
    assert [record.seq for record in read_records(file)] == [1, 2, 5]


FULL = """
import resource, sys
from datetime import UTC, datetime
from meshos.audit import FileLogAppender, LogRecord, verify_records, read_records
from meshos.errors import AppendFailed
from meshos.events import LogLevel

def line(seq):
    return LogRecord(seq=seq, at=datetime(2026, 11, 21, tzinfo=UTC), level=LogLevel.INFO, node=1, daemon=None,
                     message="x" * 1000)

appender = FileLogAppender(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
kept = []
for seq in range(1, 10):
    try:
        appender.append(line(seq))
        kept.append(seq)
    except AppendFailed as error:
        assert sys.argv[1] in error.reason, error
        assert verify_records(sys.argv[1]).records == len(kept)
assert 1 <= len(kept) < 9, kept
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
appender.append(line(10))
appender.close()
assert [record.seq for record in read_records(sys.argv[1])] == [*kept, 10]
"""


@pytest.mark.skipif(os.name == "nt", reason="limits are of Unix")
def test_a_full_disk_costs_the_records_that_did_not_fit_and_no_others(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_may_not_use_it(file: Path) -> None:
    appender = FileLogAppender(file)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                appender.append(log(1))
            except RuntimeError as error:
                code = 0 if type(error).__name__ == "ForkedProcessError" else 2
        os._exit(code)
    _, status = os.waitpid(child, 0)
    appender.append(log(2))
    appender.close()
    assert os.waitstatus_to_exitcode(status) == 0
    assert read_records(file) == (log(2),)
