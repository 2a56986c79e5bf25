"""A runtime that keeps its records in files: what a later run knows of it, and what nobody can flush or forge."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nacl.signing import SigningKey

import envelopes
import trails
from daemons import PATIENCE, eventually
from loops import WANTED
from meshos import MeshOsConfig, MeshOsRuntime
from meshos.audit import (
    AdminAuditChainAppender,
    AdminAuditRecord,
    FileActionAppender,
    FileAdminAuditAppender,
    FileFailureAppender,
    FileLogAppender,
    LogChainAppender,
    LogRecord,
    read_records,
    verify_records,
)
from meshos.dispatch import DispatchError, LoggingDispatcher
from meshos.errors import (
    AuditRequired,
    ConfigError,
    CooldownActive,
    InvalidArgument,
    LoopClosed,
    Overloaded,
    Replayed,
    SignatureInvalid,
    VerifyError,
)
from meshos.events import Cordon, LogLevel, LogLine, SignedAdminCommit, Uncordon, UnsignedAdminEvent
from meshos.identity import Identity
from meshos.operator import (
    AdminEnvelope,
    AdminVerifier,
    AuditQuery,
    DeckClient,
    FlushAvoidLists,
    FreezeCluster,
    Global,
    IceAction,
    IceEnvelope,
    OperatorKey,
    OperatorRegistry,
    OperatorSignature,
    Role,
    ThawCluster,
    Verdict,
)
from meshos.stream import Gap

ALICE, BOB = (OperatorKey(SigningKey(bytes([number]) * 32)) for number in (1, 2))
CLUSTER = b"test-cluster"
SOON = timedelta(seconds=PATIENCE)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)
FREEZE = FreezeCluster(ttl=timedelta(minutes=5))
REQUIRED = MeshOsConfig(this_node=1, audit="required")
BEST_EFFORT = MeshOsConfig(this_node=1)


def verifier() -> AdminVerifier:
    """One that remembers nothing, as after a restart of the process."""
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(BOB.verify_key, name="bob", roles=[Role.ADMIN, Role.ICE])
    return AdminVerifier(operators, cluster_id=CLUSTER)


def start(config: MeshOsConfig = BEST_EFFORT, appender: AdminAuditChainAppender | None = None) -> MeshOsRuntime:
    return MeshOsRuntime.start(config, LoggingDispatcher(), admin_verifier=verifier(), admin_audit_appender=appender)


def order(node: int, reason: str = "test", key: OperatorKey = ALICE) -> AdminEnvelope:
    envelope = AdminEnvelope(event=Cordon(node), cluster_id=CLUSTER, reason=reason)
    return envelope.with_signature(key.sign(envelope))


def forged(reason: str = "test", key: OperatorKey = ALICE) -> SignedAdminCommit:
    """A command that the operator did not sign."""
    envelope = AdminEnvelope(event=Cordon(99), cluster_id=CLUSTER, reason=reason)
    return SignedAdminCommit(envelope.with_signature(OperatorSignature(bytes(key.verify_key), bytes(64))))


def agreed(deck: DeckClient, action: IceAction) -> IceEnvelope:
    envelope = deck.ice.propose(action, reason="test")
    return envelope.with_signatures([ALICE.sign(envelope), BOB.sign(envelope)])


def commit(runtime: MeshOsRuntime, envelope: AdminEnvelope | IceEnvelope) -> int:
    """Order what is in an envelope, and return the number of its record."""
    return runtime._core.commit(envelope, SOON).audit_seq


def cordoned(runtime: MeshOsRuntime) -> set[int]:
    return {node for node, peer in runtime.snapshot().peers.items() if peer.cordoned}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.chain"


# ---------------------------------------------------------------- a loop writes its files itself


def test_every_record_of_a_loop_is_in_its_file(tmp_path: Path) -> None:
    dispatcher = LoggingDispatcher()
    dispatcher.fail_next(DispatchError.drop("no room"))
    files = [tmp_path / name for name in ("audit", "log", "failure", "action")]
    with MeshOsRuntime.start(
        BEST_EFFORT,
        dispatcher,
        admin_verifier=verifier(),
        admin_audit_appender=FileAdminAuditAppender(files[0]),
        log_appender=FileLogAppender(files[1]),
        failure_appender=FileFailureAppender(files[2]),
        action_appender=FileActionAppender(files[3]),
    ) as runtime:
        deck = DeckClient.from_runtime(runtime, ALICE)
        runtime.handle().publish(WANTED)
        runtime.handle().publish(LogLine(LogLevel.INFO, "a line", daemon=7))
        runtime.snapshot_reader().wait_for(lambda snapshot: snapshot.failure_head_seq > 0, timeout=SOON)
        deck.admin.commit(Cordon(5), reason="disk")
        deck.ice.commit(agreed(deck, FREEZE))
        with pytest.raises(VerifyError):
            deck.admin.commit(Cordon(6), reason="while it is frozen")
        audits, lines = runtime.audits(), runtime.logs()
        failures = runtime.snapshot().recent_failures

    assert read_records(files[0]) == audits
    assert read_records(files[1]) == lines
    assert read_records(files[2]) == failures
    actions = read_records(files[3])
    assert [getattr(record, "disposition", None) for record in actions] == ["failed"]
    assert {type(appended).__name__ for appended in actions} == {"ActionRecord"}


def test_no_python_runs_for_a_record(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the loop calls Python")

    for cls in FileAdminAuditAppender.__mro__[:2]:
        for method in ("append", "close"):
            monkeypatch.setattr(cls, method, refuse)
    with start(REQUIRED, FileAdminAuditAppender(file)) as runtime:
        commit(runtime, order(5))
        assert "FileAdminAuditAppender" in runtime.snapshot().callbacks
    assert verify_records(file).records == 1


def test_a_file_keeps_the_records_of_one_runtime(file: Path) -> None:
    appender = FileAdminAuditAppender(file)
    with start(appender=appender), pytest.raises(InvalidArgument, match="records of another runtime") as caught:
        start(appender=appender)
    assert caught.value.argument == "admin_audit_appender"
    with pytest.raises(InvalidArgument, match="is closed"):
        start(appender=appender)
    with start(appender=FileAdminAuditAppender(file)):
        pass


def test_a_start_that_fails_leaves_the_file_to_another(file: Path) -> None:
    appender = FileAdminAuditAppender(file)
    with pytest.raises(ConfigError):
        start(MeshOsConfig(), appender)
    with pytest.raises(TypeError, match="log_appender must be a LogChainAppender"):
        MeshOsRuntime.start(
            BEST_EFFORT,
            LoggingDispatcher(),
            admin_audit_appender=appender,
            log_appender=appender,  # type: ignore[arg-type]
        )
    with start(appender=appender) as runtime:
        commit(runtime, order(5))
    assert verify_records(file).records == 1


def test_a_signed_file_is_signed_at_the_end(file: Path) -> None:
    signer = Identity.from_seed(b"\x09" * 32)
    with start(appender=FileAdminAuditAppender(file, signer=signer)) as runtime:
        commit(runtime, order(5))
    report = verify_records(file, signer=signer.entity_id)
    assert report.signed_through == report.records == 1


# ---------------------------------------------------------------- what earlier runs obeyed


def test_an_envelope_is_not_obeyed_again_after_a_restart(file: Path) -> None:
    envelope = order(5)
    with start(appender=FileAdminAuditAppender(file)) as first:
        commit(first, envelope)
        assert cordoned(first) == {5}
        DeckClient.from_runtime(first, ALICE).admin.commit(Uncordon(5), reason="repaired")
    with start(appender=FileAdminAuditAppender(file)) as second:
        with pytest.raises(Replayed):
            commit(second, envelope)
        assert not cordoned(second)
        commit(second, order(6))
        assert cordoned(second) == {6}
    assert [(record.seq, record.verdict.value) for record in read_audits(file)] == [
        (1, "accepted"),
        (2, "accepted"),
        (1, "rejected"),
        (2, "accepted"),
    ]


def test_cooldowns_go_on_after_a_restart(file: Path) -> None:
    with start(appender=FileAdminAuditAppender(file)) as first:
        deck = DeckClient.from_runtime(first, ALICE)
        deck.ice.commit(agreed(deck, FREEZE))
        deck.ice.commit(agreed(deck, ThawCluster()))
    with start(appender=FileAdminAuditAppender(file)) as second:
        deck = DeckClient.from_runtime(second, ALICE)
        with pytest.raises(CooldownActive) as caught:
            deck.ice.commit(agreed(deck, FREEZE))
        assert caught.value.bucket == "cluster:freeze"
        assert second.snapshot().freeze_until is None


@pytest.mark.parametrize("ahead", [timedelta(0), DAY, -timedelta(minutes=1)])
def test_a_clock_that_was_set_back_brings_nothing_back(file: Path, ahead: timedelta) -> None:
    """The earlier run had a clock that was so far ahead of the present one, and obeyed an envelope and a flush."""
    envelope = order(5)
    now = datetime.now(UTC)
    then_ms = (now + ahead - EPOCH) // MS
    trail = trails.Trail("audit", bytes(16), then_ms)
    common = {"verdict": "accepted", "rejected_kind": None, "operators": (ALICE.operator_id,), "reason": "test"}
    trail.add(
        trails.audit(
            1,
            then_ms,
            order=envelopes.event_bytes({"kind": "cordon", "node": 5}),
            is_ice=False,
            envelope_id=envelope.envelope_id,
            issued_at_ms=(envelope.issued_at - EPOCH) // MS,
            times=1,
            **common,  # type: ignore[arg-type]
        )
    )
    trail.add(
        trails.audit(
            2,
            then_ms,
            order=envelopes.action_bytes({"kind": "flush_avoid_lists", "scope": "global"}),
            is_ice=True,
            envelope_id=bytes(16),
            issued_at_ms=then_ms,
            times=1,
            **common,  # type: ignore[arg-type]
        )
    )
    file.write_bytes(trail.data)

    with start(appender=FileAdminAuditAppender(file)) as runtime:
        deck = DeckClient.from_runtime(runtime, ALICE)
        with pytest.raises(Replayed):
            commit(runtime, envelope)
        with pytest.raises(CooldownActive) as caught:
            deck.ice.commit(agreed(deck, FlushAvoidLists(Global())))
        # It is left alone no longer than after an action, also when that was in what is now the future.
        assert now < caught.value.retry_at <= datetime.now(UTC) + timedelta(seconds=300)
        commit(runtime, order(6))


def read_audits(file: Path) -> list[AdminAuditRecord]:
    return [record for record in read_records(file) if isinstance(record, AdminAuditRecord)]


# ---------------------------------------------------------------- what must be kept first


class Failing(AdminAuditChainAppender):
    """Keeps nothing."""

    def append(self, record: AdminAuditRecord, /) -> None:
        raise OSError("disk full")


def test_a_command_that_could_not_be_kept_has_no_effect() -> None:
    with start(REQUIRED, Failing()) as runtime:
        with pytest.raises(AuditRequired) as caught:
            commit(runtime, order(5))
        assert not cordoned(runtime)
        (record,) = runtime.audits()
        assert (record.seq, record.verdict, record.rejected_kind) == (1, Verdict.REJECTED, "audit_required")
        assert record.chain_pending
        assert caught.value.audit_seq == 1
        with pytest.raises(AuditRequired):
            commit(runtime, order(6))
        assert not cordoned(runtime)


def test_without_the_option_it_has_its_effect_and_is_marked() -> None:
    with start(BEST_EFFORT, Failing()) as runtime:
        commit(runtime, order(5))
        assert cordoned(runtime) == {5}
        eventually(lambda: runtime.audits()[0].chain_pending)


class Gated(AdminAuditChainAppender):
    """Keeps a record when it may."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.kept: list[AdminAuditRecord] = []

    def append(self, record: AdminAuditRecord, /) -> None:
        self.inside.set()
        assert self.go_on.wait(PATIENCE)
        self.kept.append(record)


def test_a_command_takes_effect_after_its_record_was_kept() -> None:
    appender = Gated()
    with start(REQUIRED, appender) as runtime:
        committer = threading.Thread(target=commit, args=(runtime, order(5)))
        committer.start()
        assert appender.inside.wait(PATIENCE)
        # Whatever else is folded meanwhile, the command is not.
        runtime.handle().publish(WANTED)
        runtime.snapshot_reader().wait_for(lambda snapshot: 42 in snapshot.daemons, timeout=SOON)
        assert not cordoned(runtime)
        appender.go_on.set()
        committer.join(PATIENCE)
        assert cordoned(runtime) == {5}


def test_a_record_that_is_kept_too_late_is_taken_back() -> None:
    appender = Gated()
    envelope = order(5)
    with start(REQUIRED, appender) as runtime:
        with pytest.raises(AuditRequired) as caught:
            commit(runtime, envelope)
        assert not cordoned(runtime)
        with pytest.raises(Replayed):
            commit(runtime, envelope)
        appender.go_on.set()

    # Whoever reads what was kept is told, under the same number, that it had no effect.
    of_command = [record for record in appender.kept if record.seq == caught.value.audit_seq]
    assert [(record.verdict, record.rejected_kind) for record in of_command] == [
        (Verdict.ACCEPTED, None),
        (Verdict.REJECTED, "audit_required"),
    ]


def test_a_shutdown_waits_for_the_record_of_a_command() -> None:
    appender = Gated()
    runtime = start(REQUIRED, appender)
    outcomes: list[int] = []
    committer = threading.Thread(target=lambda: outcomes.append(commit(runtime, order(5))))
    committer.start()
    assert appender.inside.wait(PATIENCE)
    ender = threading.Thread(target=lambda: runtime.shutdown_with_timeout(SOON))
    ender.start()

    def has_begun() -> bool:
        try:
            runtime.handle().publish(WANTED)
        except LoopClosed:
            return True
        return False

    eventually(has_begun)
    assert not outcomes
    appender.go_on.set()
    ender.join(PATIENCE)
    committer.join(PATIENCE)
    assert outcomes == [1]
    assert cordoned(runtime) == {5}


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_kept_records import *

file = sys.argv[1]
with MeshOsRuntime.start(
    REQUIRED, LoggingDispatcher(), admin_verifier=verifier(), admin_audit_appender=FileAdminAuditAppender(file),
) as runtime:
    commit(runtime, order(5))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(file).stat().st_size, limits[1]))
    try:
        commit(runtime, order(6))
    except AuditRequired as error:
        refused_as = error.audit_seq
    else:
        raise AssertionError("the disk is full")
    assert cordoned(runtime) == {5}
    assert [record.seq for record in runtime.audits() if record.chain_pending] == [refused_as] == [2]
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    commit(runtime, order(7))
    assert cordoned(runtime) == {5, 7}
assert [record.seq for record in read_audits(file)] == [1, 3]
"""


@pytest.mark.skipif(os.name == "nt", reason="limits are of Unix")
def test_a_full_disk_refuses_commands_until_there_is_space_again(file: Path) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", FULL, str(file), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_any_number_of_commands_may_wait_for_their_records(file: Path) -> None:
    """None of them takes a lane away from the appender."""
    outcomes: list[int] = []
    with start(REQUIRED, FileAdminAuditAppender(file)) as runtime:
        threads = [
            threading.Thread(target=lambda node=node: outcomes.append(commit(runtime, order(node))))
            for node in range(1, 101)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert cordoned(runtime) == set(range(2, 101))
    assert sorted(outcomes) == list(range(1, 101))
    assert verify_records(file).records == 100


class Stuck(LogChainAppender):
    """Is at its first record for as long as the test wants."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.kept = 0

    def append(self, record: LogRecord, /) -> None:
        self.inside.set()
        assert self.go_on.wait(PATIENCE)
        self.kept += 1


def test_a_burst_of_lines_delays_no_command(file: Path) -> None:
    appender = Stuck()
    with MeshOsRuntime.start(
        REQUIRED,
        LoggingDispatcher(),
        admin_verifier=verifier(),
        admin_audit_appender=FileAdminAuditAppender(file),
        log_appender=appender,
    ) as runtime:
        handle = runtime.handle()
        handle.publish_many([LogLine(LogLevel.INFO, f"line {number}") for number in range(100_000)])
        assert appender.inside.wait(PATIENCE)

        commit(runtime, order(5))

        # The command was kept and took effect while the first of the lines before it was still being kept.
        assert appender.kept == 0
        assert cordoned(runtime) == {5}
        assert runtime.snapshot().log_head_seq == 100_000
        appender.go_on.set()
    assert verify_records(file).records == 1


# ---------------------------------------------------------------- what nobody can flush


def refused(runtime: MeshOsRuntime, event: SignedAdminCommit | UnsignedAdminEvent) -> type[VerifyError]:
    with pytest.raises(VerifyError) as caught:
        runtime.handle().publish(event)
    return type(caught.value)


def test_refused_commands_do_not_flush_those_that_were_obeyed(file: Path) -> None:
    with start(appender=FileAdminAuditAppender(file)) as runtime:
        deck = DeckClient.from_runtime(runtime, ALICE)
        for node in (5, 6, 7):
            commit(runtime, order(node))
        for number in range(400):
            assert refused(runtime, UnsignedAdminEvent(Cordon(1000 + number))).__name__ == "UnsignedRejected"
        last = commit(runtime, order(8))

        accepted = deck.audit(AuditQuery(verdict=Verdict.ACCEPTED))
        assert [(record.seq, record.event) for record in reversed(accepted)] == [
            (1, Cordon(5)),
            (2, Cordon(6)),
            (3, Cordon(7)),
            (last, Cordon(8)),
        ]
        rejected = deck.audit(AuditQuery(verdict=Verdict.REJECTED))
        assert [record.seq for record in reversed(rejected)] == list(range(148, 404))
        both = [record.seq for record in runtime.audits()]
        assert len(both) == 260
        assert both == sorted(both)
        with deck.audit_stream() as stream:
            seen = [stream.receive(timeout=SOON) for _ in range(4 + 256 + 1)]
        assert [item.seq if isinstance(item, AdminAuditRecord) else item for item in seen] == [
            1,
            2,
            3,
            Gap(4, 147),
            *range(148, 405),
        ]
    assert verify_records(file).records == 404


def test_the_same_refusal_is_counted_in_one_record(file: Path) -> None:
    with start(appender=FileAdminAuditAppender(file)) as runtime:
        commit(runtime, order(5))
        for _ in range(1000):
            refused(runtime, UnsignedAdminEvent(Cordon(6)))
        refused(runtime, UnsignedAdminEvent(Cordon(7)))
        commit(runtime, order(8))
        assert [(record.seq, record.event, record.times) for record in runtime.audits()] == [
            (1, Cordon(5), 1),
            (2, Cordon(6), 1000),
            (3, Cordon(7), 1),
            (4, Cordon(8), 1),
        ]
        assert sum("refused cordon" in line.message for line in runtime.logs()) == 2

    # In the file it stands each time its number had doubled, and at the end; the last one of its number counts.
    kept = [(record.seq, record.times) for record in read_audits(file)]
    assert [times for seq, times in kept if seq == 2] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert [seq for seq, _ in kept if seq != 2] == [1, 3, 4]


def test_forged_commands_cost_a_bounded_time_and_hold_up_nobody_else() -> None:
    with start() as runtime:
        kinds: list[type[VerifyError]] = []
        while Overloaded not in kinds:
            assert len(kinds) < 100_000
            kinds.append(refused(runtime, forged(f"forged {len(kinds)}")))
        assert set(kinds) == {SignatureInvalid, Overloaded}
        assert len(kinds) >= 256

        commit(runtime, order(5, key=BOB))
        for number in range(20):
            refused(runtime, forged(f"more {number}"))

        def overloaded() -> list[AdminAuditRecord]:
            return [record for record in runtime.audits() if record.rejected_kind == "overloaded"]

        eventually(lambda: bool(overloaded()))
        assert len(overloaded()) == 1

        def is_looked_at() -> bool:
            try:
                commit(runtime, order(6))
            except Overloaded:
                return False
            return True

        eventually(is_looked_at)
        assert cordoned(runtime) == {5, 6}
