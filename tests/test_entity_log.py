"""Logs of a store: what entities emitted, who spoke for them, and what makes that certain."""

import json
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from nacl.signing import SigningKey

import journals
import reference
from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, EntityId, Identity, Mesh, MeshDaemon, Store, StoreError
from meshos.chain import ForkRecord, fork_entity
from meshos.cli import ExitCode, main
from meshos.daemon import DaemonHost
from meshos.errors import (
    BadSignature,
    InvalidArgument,
    MeshOsError,
    PruneRefused,
    ReentrantCallError,
)
from meshos.store import (
    Continuity,
    Continuous,
    EntityLog,
    Forked,
    Migrated,
    Span,
    Unverifiable,
    open_logs,
    verify,
)

JOURNAL = DaemonHostConfig(durability="journal", auto_snapshot_interval=10)
KEY = Identity.from_seed(b"\x07" * 32)
ORIGIN = KEY.origin_hash
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "cli.schema.json").read_text(encoding="utf-8"))


class Echo(MeshDaemon):
    """Says what it hears, twice where it is loud."""

    name = "echo"

    def __init__(self) -> None:
        self.heard = 0

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.heard += 1
        return [event.payload] * event.payload.count(b"!")

    def snapshot(self) -> bytes:
        return struct.pack("<Q", self.heard)

    def restore(self, state: bytes) -> None:
        (self.heard,) = struct.unpack("<Q", state)


def node(store: Store) -> DaemonRuntime:
    runtime = DaemonRuntime(Mesh.local(store=store))
    runtime.register_factory("echo", Echo)
    runtime.start()
    return runtime


def deliver(runtime: DaemonRuntime, numbers: Iterable[int]) -> list[CausalEvent]:
    """Deliver events of which every third causes two outputs, and the others one."""
    emitted = []
    for number in numbers:
        payload = b"%d!" % number + b"!" * (number % 3 == 0)
        emitted += runtime.deliver(ORIGIN, CausalEvent.external(1, number, payload))
    return emitted


def found(log: EntityLog | None) -> EntityLog:
    assert log is not None
    return log


def ran(path: Path) -> list[CausalEvent]:
    """Make a store with 30 events and 40 outputs; 20 of them are signed for."""
    with Store.open(path) as store, node(store) as runtime:
        runtime.spawn("echo", KEY, JOURNAL)
        emitted = deliver(runtime, range(1, 16))
        runtime.export_chain(ORIGIN, path.with_name("first"))
        return emitted + deliver(runtime, range(16, 31))


# ---------------------------------------------------------------- reading


def test_a_log_is_what_was_emitted(tmp_path: Path) -> None:
    emitted = ran(tmp_path / "state")
    chain = reference.Chain(bytes(KEY.entity_id))
    for event in emitted:
        chain.append(event.payload, event.link.horizon_encoded)
    with open_logs(tmp_path / "state") as logs:
        assert (list(logs), len(logs), KEY.entity_id in logs) == ([KEY.entity_id], 1, True)
        log = found(logs.get(KEY.entity_id))
        assert (log.entity_id, log.origin_hash) == (KEY.entity_id, ORIGIN)
        assert (log.base_sequence, log.head_sequence) == (0, len(emitted)) == (0, 40)
        assert (log.base_digest, log.head_digest) == (chain.digests[0], chain.digest)
        assert list(log.after(0)) == emitted
        for first, last in [(1, 1), (3, 17), (0, 99), (40, 40), (41, 99), (9, 8), (0, 0)]:
            assert list(log.range(first, last)) == emitted[max(first - 1, 0) : last] if last >= first else True
        assert list(log.range(9, 8)) == list(log.after(40)) == list(log.after(2**64 - 1)) == []
        assert [log.event(at) for at in (0, 1, 40, 41)] == [None, emitted[0], emitted[39], None]
        assert [log.digest_at(at) for at in range(42)] == [*chain.digests, None]


def test_a_log_is_found_by_its_whole_key(tmp_path: Path) -> None:
    ran(tmp_path / "state")
    other = Identity.generate().entity_id
    with open_logs(tmp_path / "state") as logs:
        assert logs.get(other) is None
        assert other not in logs
        (log,) = logs.find(ORIGIN)
        assert log.entity_id == KEY.entity_id
        assert logs.find(other.origin_hash) == ()
        with pytest.raises(TypeError, match="entity_id"):
            logs.get(ORIGIN)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ORIGIN in logs  # type: ignore[operator]  # noqa: B015
        for bad in (-1, 2**64, "1", 1.0, None):
            with pytest.raises((TypeError, InvalidArgument)):
                log.after(bad)  # type: ignore[arg-type]
            with pytest.raises((TypeError, InvalidArgument)):
                log.prune(bad)  # type: ignore[arg-type]
        assert "EntityLog" in repr(log)
        assert "state" in repr(logs)


def test_a_log_is_read_while_its_daemon_runs(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("echo", KEY, JOURNAL)
        log = found(store.logs().get(KEY.entity_id))
        assert (log.head_sequence, list(log.after(0))) == (0, [])
        emitted = deliver(runtime, range(1, 4))
        events = log.after(0)
        more = deliver(runtime, range(4, 7))
        assert list(events) == emitted, "as it was when it was asked"
        assert list(log.after(0)) == emitted + more
        found_now = log.assess()
        assert isinstance(found_now, Continuous)
        assert (found_now.anchor, found_now.signed_through, len(log.spans)) == ("genesis", 0, 1)
        with store.logs() as index:
            pass
        assert len(index) == 1, "the store stays open"
    with pytest.raises(StoreError) as closed:
        log.head_sequence  # noqa: B018
    assert closed.value.kind == "closed"


def test_a_log_in_memory_is_one_too() -> None:
    with DaemonRuntime(mesh := Mesh.local()) as runtime:
        runtime.register_factory("echo", Echo)
        runtime.start()
        runtime.spawn("echo", KEY, JOURNAL)
        emitted = deliver(runtime, range(1, 25))
        log = found(mesh.store.logs().get(KEY.entity_id))
        assert list(log.range(5, 20)) == emitted[4:20]


def test_events_are_shared_out_among_threads(tmp_path: Path) -> None:
    emitted = ran(tmp_path / "state")
    with open_logs(tmp_path / "state") as logs:
        events = found(logs.get(KEY.entity_id)).after(0)
        taken: list[CausalEvent] = []
        threads = [threading.Thread(target=lambda: taken.extend(events)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(event.sequence for event in taken) == [event.sequence for event in emitted]


def test_a_log_is_not_read_inside_user_code(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    class Reader(Echo):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            try:
                log.head_sequence  # noqa: B018
            except MeshOsError as error:
                raised.append(error)
            return []

    with Store.open(tmp_path / "state") as store, DaemonRuntime(Mesh.local(store=store)) as runtime:
        runtime.register_factory("reader", Reader)
        runtime.start()
        runtime.spawn("reader", KEY, JOURNAL)
        log = found(store.logs().get(KEY.entity_id))
        runtime.deliver(ORIGIN, CausalEvent.external(1, 1, b""))
    (error,) = raised
    assert isinstance(error, ReentrantCallError)


def test_a_folder_is_open_once(tmp_path: Path) -> None:
    ran(tmp_path / "state")
    with open_logs(tmp_path / "state") as logs:
        with pytest.raises(StoreError) as locked:
            Store.open(tmp_path / "state")
        assert locked.value.kind == "locked"
    logs.close()
    with pytest.raises(StoreError):
        len(logs)
    with pytest.raises(StoreError) as missing:
        open_logs(tmp_path / "nothing")
    assert missing.value.kind == "missing"
    Store.open(tmp_path / "state").close()


# ---------------------------------------------------------------- pruning


def test_a_log_is_pruned_where_what_stays_is_proven(tmp_path: Path) -> None:
    path = tmp_path / "state"
    emitted = ran(path)
    with open_logs(path) as logs:
        log = found(logs.get(KEY.entity_id))
        for through, kind, nearest in [(7, "unprovable", 0), (25, "unprovable", 20), (41, "needed", 40)]:
            with pytest.raises(PruneRefused) as refused:
                log.prune(through)
            error = refused.value
            assert (error.kind, error.origin, error.through, error.nearest) == (kind, ORIGIN, through, nearest)
        assert log.prune(20) == 20
        assert log.prune(20) == log.prune(3) == 0
        assert (log.base_sequence, log.head_sequence) == (20, 40)
        assert list(log.after(0)) == emitted[20:]
        assert log.event(20) is None
        whole = log.assess()
        assert isinstance(whole, Continuous)
        assert (whole.anchor, whole.anchored_at, whole.signed_through) == ("checkpoint", 20, 40)
    assert verify(path).outputs == 20
    with Store.open(path) as store, node(store) as runtime:
        report = runtime.recover()
        assert report.daemons[ORIGIN].sequence == 40
        more = deliver(runtime, range(31, 36))
        chain = runtime.export_chain(ORIGIN, tmp_path / "second")
        assert chain.last_sequence == 46
        log = found(store.logs().get(KEY.entity_id))
        assert list(log.after(0)) == emitted[20:] + more
    assert verify(path).outputs == 26


def test_a_log_is_not_pruned_while_a_runtime_uses_the_store(tmp_path: Path) -> None:
    path = tmp_path / "state"
    ran(path)
    with Store.open(path) as store:
        log = found(store.logs().get(KEY.entity_id))
        with node(store) as runtime:
            runtime.recover()
            with pytest.raises(StoreError) as locked:
                log.prune(20)
            assert locked.value.kind == "locked"
        assert log.prune(20) == 20
        with node(store) as runtime:
            assert runtime.recover().daemons[ORIGIN].sequence == 40


def test_nothing_goes_without_a_snapshot(tmp_path: Path) -> None:
    path = Made(reference.Chain(bytes(KEY.entity_id)), [3, 3]).write(tmp_path / "state")
    with open_logs(path) as logs:
        log = found(logs.get(KEY.entity_id))
        with pytest.raises(PruneRefused) as refused:
            log.prune(3)
        assert (refused.value.kind, refused.value.nearest) == ("needed", 0)
        assert log.head_sequence == 6


# ---------------------------------------------------------------- stores made by hand


NODES = [SigningKey(b"\x31" * 32), SigningKey(b"\x32" * 32)]


@dataclass
class Made:
    """A store with one chain, written with struct, zlib and blake3 alone."""

    chain: reference.Chain
    rows: Sequence[int]
    """Outputs of each row."""
    signed: list[bytes] = field(default_factory=list)
    previous: bytes = reference.ZERO
    epoch: int = 0

    def __post_init__(self) -> None:
        for number in range(sum(self.rows)):
            self.chain.append(b"%d" % number, number)

    def certify(self, key: SigningKey, node: SigningKey, at: int, reason: str) -> None:
        self.epoch += 1
        entity = self.chain.entity
        made = reference.certificate(
            entity, self.epoch, bytes(node.verify_key), at, self.chain.digests[at], reason, key
        )
        self.signed.append(journals.write("certificates", entity + struct.pack(">Q", self.epoch), made))

    def sign(self, node: SigningKey, at: int) -> None:
        entity = self.chain.entity
        made = reference.checkpoint(entity, self.epoch, at, self.chain.digests[at], 5, node, self.previous)
        self.previous = reference.checkpoint_digest(made)
        self.signed.append(journals.write("checkpoints", entity + struct.pack(">QQ", self.epoch, at), made))

    def outputs(self) -> list[tuple[bytes, bytes]]:
        """Return key and value of each row."""
        made, first = [], 1
        for count in self.rows:
            made.append((self.chain.entity + struct.pack(">Q", first), journals.outputs(self.chain, count, first)))
            first += count
        return made

    def write(self, path: Path, outputs: Iterable[tuple[bytes, bytes]] | None = None) -> Path:
        """Put it on the disk."""
        entity = self.chain.entity
        Store.open(path).close()
        store = (path / "meshos.store").read_bytes()[10:26]
        daemon = journals.stored_daemon(entity, b"\1" * 32, b"\2" * 32, b"\3" * 24)
        rows = [journals.write("outputs", key, value) for key, value in outputs or self.outputs()]
        commits = [[journals.write("daemons", entity, daemon)], rows, self.signed]
        (path / "log" / f"{1:016x}.segment").write_bytes(journals.segment(store, [each for each in commits if each]))
        return path


def key() -> SigningKey:
    return SigningKey(b"\x30" * 32)


def made(*rows: int) -> Made:
    return Made(reference.Chain(bytes(key().verify_key)), rows)


def assessed(path: Path, fork: ForkRecord | None = None) -> tuple[Continuity, tuple[Span, ...]]:
    with open_logs(path) as logs:
        (entity,) = logs
        log = found(logs.get(entity, fork=fork))
        return log.assess(), log.spans


def test_who_spoke_when_is_told(tmp_path: Path) -> None:
    one = made(4, 3, 5)
    one.certify(key(), NODES[0], 0, "spawn")
    one.sign(NODES[0], 4)
    one.certify(NODES[0], NODES[1], 7, "move")
    one.sign(NODES[1], 12)
    found_now, spans = assessed(one.write(tmp_path / "state"))
    digests = one.chain.digests
    ids = [EntityId(bytes(each.verify_key)) for each in NODES]
    assert found_now == Migrated(digests[0], 12, digests[12], "genesis", 0, 12, 2, 7, ids[0], ids[1])
    assert found_now.kind == "migrated"
    first, second = spans
    assert (first.epoch, first.node, first.reason) == (1, ids[0], "spawn")
    assert (first.from_sequence, first.from_digest, first.to_sequence, first.to_digest) == (
        0,
        digests[0],
        7,
        digests[7],
    )
    assert (second.epoch, second.node, second.reason, second.rolled_back_from) == (2, ids[1], "move", None)
    assert (second.from_digest, second.to_sequence, second.to_digest) == (digests[7], 12, digests[12])
    assert eval(repr(first), {"Span": Span, "EntityId": EntityId}) == first


def test_a_log_is_certain_from_what_is_signed_within_it(tmp_path: Path) -> None:
    one = made(4, 3, 5)
    one.certify(key(), NODES[0], 0, "spawn")
    rows = one.outputs()[1:]
    assert assessed(one.write(tmp_path / "unsigned", rows))[0] == Unverifiable(0, 1)
    one.sign(NODES[0], 9)
    found_now, _ = assessed(one.write(tmp_path / "signed", rows))
    digests = one.chain.digests
    assert found_now == Continuous(digests[0], 12, digests[12], "checkpoint", 9, 9)


def test_what_is_missing_or_another_is_told(tmp_path: Path) -> None:
    one = made(4, 3, 5)
    rows = one.outputs()
    assert assessed(one.write(tmp_path / "hole", [rows[0], rows[2]]))[0] == Unverifiable(4, 5)
    one.certify(key(), NODES[0], 0, "spawn")
    one.sign(NODES[0], 12)
    assert assessed(one.write(tmp_path / "end", rows[:2]))[0] == Unverifiable(7, 8)
    other = made()
    for number in range(12):
        other.chain.append(b"other %d" % number)
    other.rows = one.rows
    digests = one.chain.digests, other.chain.digests
    mixed = [rows[0], other.outputs()[1], rows[2]]
    assert assessed(one.write(tmp_path / "mixed", mixed))[0] == Forked(5, digests[0][4], digests[1][4])
    assert assessed(one.write(tmp_path / "other", other.outputs()))[0] == Forked(12, digests[0][12], digests[1][12])


def test_a_fork_is_certain_from_its_record(tmp_path: Path) -> None:
    parent = Identity.generate()
    child, record, chain = fork_entity(parent, 5, b"\x05" * 32)
    lineage = reference.fork_lineage(bytes(parent.entity_id), 5, b"\x05" * 32, bytes(child.entity_id))
    one = Made(reference.Chain(bytes(child.entity_id), lineage), [2, 2])
    assert one.chain.digests[0] == chain.head_digest
    path = one.write(tmp_path / "state")
    plain = reference.genesis(bytes(child.entity_id))
    digests = one.chain.digests
    assert assessed(path)[0] == Forked(1, plain, digests[0])
    assert assessed(path, record)[0] == Continuous(digests[0], 4, digests[4], "fork", 0, 0)
    _, strange, _ = fork_entity(parent, 5, b"\x05" * 32)
    bad = ForkRecord(parent.entity_id, child.entity_id, 6, b"\x05" * 32, None, parent.entity_id, record.signatures)
    with open_logs(path) as logs:
        with pytest.raises(InvalidArgument, match="fork"):
            logs.get(child.entity_id, fork=strange)
        with pytest.raises(BadSignature):
            logs.get(child.entity_id, fork=bad)


def test_a_fork_that_runs_has_a_log(tmp_path: Path) -> None:
    child, record, chain = fork_entity(KEY, 5, b"\x05" * 32)
    host = DaemonHost.from_fork(Echo(), child, chain)
    snapshot = host.take_snapshot()
    assert snapshot is not None
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn_from_snapshot("echo", child, snapshot, JOURNAL)
        for number in (1, 2):
            runtime.deliver(child.origin_hash, CausalEvent.external(1, number, b"!"))
        runtime.snapshot(child.origin_hash)
        logs = store.logs()
        log, plain = found(logs.get(child.entity_id, fork=record)), found(logs.get(child.entity_id))
        for each, anchor in ((log, "fork"), (plain, "certificate")):
            whole = each.assess()
            assert isinstance(whole, Continuous)
            assert (whole.anchor, whole.genesis, whole.head_sequence) == (anchor, chain.head_digest, 2)


def test_a_record_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    one = made(4)
    one.certify(key(), NODES[0], 0, "spawn")
    one.sign(NODES[1], 3)
    path = one.write(tmp_path / "state")
    with open_logs(path) as logs:
        (entity,) = logs
        log = found(logs.get(entity))
        for call in (log.assess, lambda: log.spans):
            with pytest.raises(BadSignature) as refused:
                call()
            assert (refused.value.origin, refused.value.sequence) == (entity.origin_hash, 3)
        assert len(list(log.after(0))) == 4, "it can be read all the same"


def test_damage_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(4, 3, 5)
    entity = EntityId(one.chain.entity)
    rows = one.outputs()
    value = bytearray(rows[1][1])
    value[60] ^= 1
    path = one.write(tmp_path / "state", [rows[0], (rows[1][0], bytes(value)), rows[2]])
    with open_logs(path) as logs:
        log = found(logs.get(entity))
        events = log.after(0)
        read: list[CausalEvent] = []
        with pytest.raises(StoreError, match=rf"Outputs of {entity.hex()[:16]}…, 5: byte \d+:") as damaged:
            read += events
        assert damaged.value.kind == "corrupt"
        assert [event.sequence for event in read] == [1, 2, 3, 4]
        assert [event.sequence for event in log.range(1, 4)] == [1, 2, 3, 4]
        assert list(events) == [], "it ended"
        for call in (log.assess, lambda: log.event(6), lambda: log.digest_at(7)):
            with pytest.raises(StoreError, match="5: byte"):
                call()
        assert found_event(log, 12).payload == b"11"
    assert main(["log", str(path), entity.hex()]) == ExitCode.FAILED
    assert "5: byte" in capsys.readouterr().err
    assert main(["log", str(path), entity.hex(), "--json"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out)["kind"] == "corrupt"


def found_event(log: EntityLog, sequence: int) -> CausalEvent:
    event = log.event(sequence)
    assert event is not None
    return event


def test_what_stays_is_proven_to_a_stranger(tmp_path: Path) -> None:
    path = tmp_path / "state"
    ran(path)
    with Store.open(path) as store:
        log = found(store.logs().get(KEY.entity_id))
        log.prune(20)
        events = list(log.after(0))
        (span,) = log.spans
        with node(store) as runtime:
            runtime.recover()
            runtime.export_chain(ORIGIN, tmp_path / "chain")
    head = events[-1]
    assert (span.to_sequence, head.sequence) == (40, 40)
    # The digest at the base is signed, so a chain that is hashed from there ends where the log does.
    digest = log_base(path)
    for event in events:
        assert event.link.parent_hash == reference.head8(digest)
        digest = reference.event_digest(digest, event.link.to_bytes(), event.payload)
    assert digest == span.to_digest


def log_base(path: Path) -> bytes:
    with open_logs(path) as logs:
        return found(logs.get(KEY.entity_id)).base_digest


# ---------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().out


def test_the_command_shows_outputs_and_what_they_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    ran(path)
    entity = KEY.entity_id.hex()
    code, out = run(capsys, "log", path, entity)
    assert code == ExitCode.OK
    assert f"entity  {entity}" in out
    assert "events  1 to 40" in out
    assert "1!" in out
    assert "continuous: certain from its genesis at 0, signed through 40" in out
    assert run(capsys, "log", path, f"0x{ORIGIN:016x}") == (code, out)
    code, out = run(capsys, "log", path, ORIGIN, "--after", 20, "--limit", 3, "--json")
    assert code == ExitCode.OK
    shown = json.loads(out)
    Draft202012Validator({**SCHEMA, "$ref": "#/$defs/log"}).validate(shown)
    assert [output["sequence"] for output in shown["outputs"]] == [21, 22, 23]
    assert (shown["head_sequence"], shown["assessment"]["kind"], len(shown["spans"])) == (40, "continuous", 1)
    assert bytes.fromhex(shown["outputs"][0]["payload"]).endswith(b"!")


@pytest.mark.parametrize("json_too", [False, True])
def test_the_command_fails_for_a_chain_that_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], json_too: bool
) -> None:
    one = made(4, 3, 5)
    one.certify(key(), NODES[0], 0, "spawn")
    one.certify(NODES[0], NODES[1], 4, "move")
    rows = one.outputs()
    stores = {
        "migrated": one.write(tmp_path / "moved"),
        "unverifiable": one.write(tmp_path / "hole", [rows[0], rows[2]]),
        "forked": Made(reference.Chain(one.chain.entity, b"\1" * 32), [1]).write(tmp_path / "fork"),
    }
    for kind, path in stores.items():
        # Events that are shown stop at a hole.
        code, out = run(capsys, "log", path, one.chain.entity.hex(), "--limit", 4, *["--json"][: int(json_too)])
        assert code == (ExitCode.OK if kind == "migrated" else ExitCode.FAILED)
        assert kind in out
        if json_too:
            shown = json.loads(out)
            Draft202012Validator({**SCHEMA, "$ref": "#/$defs/log"}).validate(shown)
            assert (shown["assessment"]["kind"], shown["ok"]) == (kind, kind == "migrated")


def test_the_command_says_what_it_cannot_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    ran(path)
    other = Identity.generate().entity_id
    for name in (other.hex(), f"0x{other.origin_hash:016x}"):
        code, out = run(capsys, "log", path, name, "--json")
        assert code == ExitCode.UNREADABLE
        failure = json.loads(out)
        Draft202012Validator({**SCHEMA, "$ref": "#/$defs/failure"}).validate(failure)
        assert failure["kind"] == "not_found"
    assert run(capsys, "log", path, "xyz")[0] == ExitCode.USAGE
    assert run(capsys, "log", path, other.hex(), "--limit", "-1")[0] == ExitCode.USAGE
    assert run(capsys, "log", tmp_path / "nothing", other.hex())[0] == ExitCode.UNREADABLE


def test_foreign_bytes_reach_no_terminal_as_they_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = reference.Chain(bytes(key().verify_key))
    one = Made(chain, [])
    for payload in (b"\x1b[2J", b"\xff\x00", b"x" * 100):
        chain.append(payload)
    one.rows = [3]
    code, out = run(capsys, "log", one.write(tmp_path / "state"), chain.entity.hex())
    assert code == ExitCode.OK
    assert "\x1b" not in out
    assert "\\x1b[2J" in out
    assert "0xff00" in out
    assert f"{'x' * 64}…" in out
