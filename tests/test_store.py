"""A store in a folder, and daemons that come back from it: nothing acknowledged is lost, nothing takes effect twice."""

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, Node, Store, StoreError
from meshos.cli import ExitCode, main
from meshos.daemon import DaemonHost
from meshos.errors import (
    AlreadyStored,
    ConfigError,
    DivergenceError,
    IdentityError,
    InvalidArgument,
    ProcessFailed,
)
from meshos.store import Divergence, RecoveryReport, inspect, verify

JOURNAL = DaemonHostConfig(durability="journal")
KEY = Identity.from_seed(b"\x07" * 32)
ORIGIN = KEY.origin_hash


class Sum(MeshDaemon):
    """Adds its inputs up."""

    name = "sum"
    add = 0

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        number: int = struct.unpack("<q", event.payload)[0]
        self.total += number + self.add
        if number < 0:
            raise ValueError("below nothing")
        return [struct.pack("<q", self.total)] if number else []

    def snapshot(self) -> bytes:
        return struct.pack("<q", self.total)

    def restore(self, state: bytes) -> None:
        (self.total,) = struct.unpack("<q", state)


class Other(Sum):
    """Does something else with the same inputs."""

    add = 1


class AsyncSum(Sum):
    """Adds up when its loop has time."""

    async def process(self, event: CausalEvent) -> list[bytes]:  # type: ignore[override]
        await asyncio.sleep(0)
        return list(super().process(event))


def event(sequence: int, number: int = 1) -> CausalEvent:
    return CausalEvent.external(1, sequence, struct.pack("<q", number))


def node(store: Store, kind: type[MeshDaemon] = Sum) -> DaemonRuntime:
    runtime = DaemonRuntime(Mesh.local(store=store))
    runtime.register_factory("sum", kind)
    runtime.start()
    return runtime


def said(outputs: Iterable[CausalEvent]) -> list[int]:
    return [struct.unpack("<q", output.payload)[0] for output in outputs]


def back(path: Path, kind: type[MeshDaemon] = Sum) -> tuple[RecoveryReport, list[int]]:
    """Open, recover, deliver one event more than was seen, and close."""
    with Store.open(path) as store, node(store, kind) as runtime:
        report = runtime.recover()
        seen = report.daemons[ORIGIN].cursors.get(1, 0) if report.daemons[ORIGIN].error is None else None
        return report, [] if seen is None else said(runtime.deliver(ORIGIN, event(seen + 1)))


# ---------------------------------------------------------------- coming back


@pytest.mark.parametrize("interval", [0, 1, 3, 100])
@pytest.mark.parametrize("kind", [Sum, AsyncSum])
def test_a_daemon_comes_back_where_it_was(tmp_path: Path, interval: int, kind: type[MeshDaemon]) -> None:
    config = DaemonHostConfig(durability="journal", auto_snapshot_interval=interval)
    with Store.open(tmp_path / "state") as store, node(store, kind) as runtime:
        runtime.spawn("sum", KEY, config)
        for sequence in range(1, 11):
            assert said(runtime.deliver(ORIGIN, event(sequence))) == [sequence]
        head = runtime.newest_snapshot(ORIGIN)
        assert head is not None
    report, outputs = back(tmp_path / "state", kind)
    assert outputs == [11]
    daemon = report.daemons[ORIGIN]
    assert (daemon.sequence, daemon.epoch, daemon.error, daemon.error_kind) == (10, 1, None, None)
    assert (daemon.daemon.id, daemon.kind, dict(daemon.cursors)) == (ORIGIN, "sum", {1: 10})
    assert daemon.replayed == daemon.suppressed == (10 % interval if interval else 10)
    assert report.kinds_missing == frozenset()
    assert report.took > timedelta()
    assert back(tmp_path / "state", kind)[1] == [12]


def test_many_lives_are_one_chain(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        runtime.deliver(ORIGIN, event(1))
        runtime.export_chain(ORIGIN, tmp_path / "first")
    for life in range(2, 6):
        assert back(tmp_path / "state")[1] == [life]
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.recover()
        report = runtime.export_chain(ORIGIN, tmp_path / "all")
        assert report.last_sequence == 5


def test_mail_is_acknowledged_when_it_is_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        receipts = runtime.send_many(ORIGIN, [struct.pack("<q", 1)] * 100)
        assert [receipt.sequence for receipt in receipts] == list(range(1, 101))
        assert runtime.deliver_many(ORIGIN, [event(1), event(2)])[1][0].link.sequence == 102
        assert store.stats().commits > 1
    report, outputs = back(tmp_path / "state")
    assert (report.daemons[ORIGIN].sequence, outputs) == (102, [103])


def test_a_second_try_after_a_restart_is_a_duplicate_with_its_receipt(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        first = runtime.send(ORIGIN, event(1))
        assert not first.duplicate
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.recover()
        again = runtime.send(ORIGIN, event(1))
        assert again.duplicate
        assert (again.sequence, again.head, again.epoch) == (first.sequence, first.head, first.epoch)
        assert runtime.deliver(ORIGIN, event(1)) == []


@pytest.mark.parametrize("on_error", ["raise", "restore"])
def test_a_raise_is_not_replayed(tmp_path: Path, on_error: str) -> None:
    config = DaemonHostConfig(durability="journal", on_error=on_error)  # type: ignore[arg-type]
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        runtime.deliver(ORIGIN, event(1, 5))
        with pytest.raises(ProcessFailed):
            runtime.deliver(ORIGIN, event(2, -2))
        # Under "raise" user code keeps what it did before it raised.
        after = said(runtime.deliver(ORIGIN, event(2, 1)))
        assert after == ([4] if on_error == "raise" else [6])
    assert back(tmp_path / "state")[1] == [after[0] + 1]


def test_a_daemon_that_was_stopped_stays_so_until_it_is_wanted(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        runtime.deliver(ORIGIN, event(1))
        runtime.stop(ORIGIN)
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        assert not runtime.recover().daemons
        with pytest.raises(AlreadyStored):
            runtime.spawn("sum", KEY, JOURNAL)
        assert runtime.spawn("sum", KEY, JOURNAL, resume=True).origin_hash == ORIGIN
        assert said(runtime.deliver(ORIGIN, event(2))) == [2]
        fresh = Identity.generate()
        assert runtime.spawn("sum", fresh, JOURNAL, resume=True).origin_hash == fresh.origin_hash
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        assert set(runtime.recover().daemons) == {ORIGIN, fresh.origin_hash}


def test_what_cannot_be_brought_back_is_reported(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        runtime.deliver(ORIGIN, event(1))
    report, _ = back(tmp_path / "state", Other)
    daemon = report.daemons[ORIGIN]
    assert isinstance(daemon.error, DivergenceError)
    assert (daemon.error_kind, daemon.error.sequence) == ("diverged", 1)
    with Store.open(tmp_path / "state") as store, DaemonRuntime(Mesh.local(store=store)) as runtime:
        runtime.start()
        report = runtime.recover()
        assert (report.kinds_missing, dict(report.daemons)) == (frozenset({"sum"}), {})
        runtime.register_factory("sum", Sum)
        assert asyncio.run(runtime.recover_async()).daemons[ORIGIN].sequence == 1
        assert not runtime.recover().daemons


# ---------------------------------------------------------------- the folder


def test_a_folder_has_one_user_at_a_time_and_one_node(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with Store.open(path) as store:
        first = store.node_id
        assert store.is_durable
        assert store.path == str(path)
        assert Mesh.local(store=store).node_id == first
        with pytest.raises(StoreError) as locked:
            Store.open(path)
        assert (locked.value.kind, locked.value.path) == ("locked", str(path))
        store.verify()
    with Store.open(path) as store:
        assert store.node_id == first
    other = Identity.generate()
    with pytest.raises(StoreError) as strange:
        Store.open(path, identity=other)
    assert strange.value.kind == "other_node"
    with Store.open(tmp_path / "given", identity=other) as store:
        assert store.node_id == Mesh.local(identity=other).node_id
        with pytest.raises(InvalidArgument, match="identity"):
            Mesh.local(store=store, identity=Identity.generate())
    with pytest.raises(StoreError) as keyless:
        Store.open(tmp_path / "given")
    assert keyless.value.kind == "other_node"
    with pytest.raises(IdentityError):
        Store.open(tmp_path / "public", identity=Identity.public_only(other.entity_id))
    if os.name == "posix":
        assert path.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as missing:
        Store.open(tmp_path / "state", create=False)
    assert missing.value.kind == "missing"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a").write_text("dear")
    with pytest.raises(StoreError) as strange:
        Store.open(tmp_path / "letters")
    assert strange.value.kind == "not_a_store"
    assert [file.name for file in (tmp_path / "letters").iterdir()] == ["a"]


@pytest.mark.parametrize("wrong", [None, 7, b"x", ["x"]])
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(TypeError, match="path"):
        Store.open(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="store"):
        Mesh.local(store=wrong or 1)  # type: ignore[arg-type]
    with pytest.raises((TypeError, InvalidArgument), match="sync"):
        Store.open(tmp_path / "a", sync=wrong or "sometimes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="create"):
        Store.open(tmp_path / "a", create=wrong or 1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_closed_after_what_uses_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state")
    runtime = node(store)
    runtime.spawn("sum", KEY, JOURNAL)
    with pytest.raises(StoreError) as used:
        store.close()
    assert used.value.kind == "locked"
    runtime.deliver(ORIGIN, event(1))
    runtime.shutdown()
    store.close()
    store.close()
    with pytest.raises(StoreError) as closed:
        store.stats()
    assert closed.value.kind == "closed"


def test_a_store_in_memory_keeps_for_the_process(tmp_path: Path) -> None:
    store = Store.memory()
    assert (store.is_durable, store.path) == (False, None)
    with node(store) as runtime:
        runtime.spawn("sum", KEY, JOURNAL)
        runtime.deliver(ORIGIN, event(1))
        assert runtime.mesh().store is store
    with node(store) as runtime:
        assert runtime.recover().daemons[ORIGIN].sequence == 1
        assert store.stats().daemons == 1
    assert list(tmp_path.iterdir()) == []


def test_a_host_of_its_own_keeps_no_journal() -> None:
    with pytest.raises(ConfigError, match="durability"):
        DaemonHost(Sum(), KEY, JOURNAL)


# ---------------------------------------------------------------- looking into it


def filled(path: Path) -> Path:
    config = DaemonHostConfig(durability="journal", auto_snapshot_interval=4)
    with Store.open(path) as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        for sequence in range(1, 11):
            runtime.deliver(ORIGIN, event(sequence))
        runtime.export_chain(ORIGIN, path.with_name("chain"))
    return path


def test_a_store_is_looked_into_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path / "state")
    found = inspect(path)
    (daemon,) = found.daemons
    assert (daemon.entity_id, daemon.kind, daemon.problem, daemon.runs) == (KEY.entity_id, "sum", None, True)
    assert (daemon.epoch, daemon.sequence, daemon.steps, daemon.to_replay, daemon.snapshots) == (1, 10, 10, 2, 2)
    assert found.bytes_cut == 0
    proof = verify(path)
    assert (proof.daemons, proof.outputs, proof.snapshots) == (1, 10, 2)
    assert proof.signed >= 1
    assert main(["inspect", str(path)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert daemon.entity_id.hex() in shown
    assert daemon.head.hex() in shown
    assert main(["inspect", str(path), "--json"]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    schema = json.loads((Path(__file__).parents[1] / "docs" / "cli.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator({**schema, "$ref": "#/$defs/inspect"}).validate(printed)
    assert main(["store", "stats", str(path), "--json"]) == ExitCode.OK
    counted = json.loads(capsys.readouterr().out)
    Draft202012Validator({**schema, "$ref": "#/$defs/store stats"}).validate(counted)
    totals = {name: count for name, count in printed.items() if name in counted and name != "daemons"}
    assert {**counted, "daemons": None} == {**totals, "daemons": None}
    assert counted["daemons"] == len(printed["daemons"])
    assert main(["store", "stats", str(path)]) == ExitCode.OK
    assert f"commits        {counted['commits']:,}\n" in capsys.readouterr().out
    assert printed["daemons"][0]["origin"] == f"0x{ORIGIN:016x}"
    assert main(["verify", str(path), "--json"]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    Draft202012Validator({**schema, "$ref": "#/$defs/verify"}).validate(printed)
    assert printed == {"ok": True, **proof._asdict()}


def test_a_store_that_was_closed_has_no_file_that_nobody_needs(tmp_path: Path) -> None:
    path = filled(tmp_path / "state")
    assert len([*(path / "snapshots").iterdir()]) == inspect(path).daemons[0].snapshots == 2


def test_what_is_no_whole_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path / "state")
    with Store.open(path):
        assert main(["inspect", str(path)]) == ExitCode.UNREADABLE
        assert "another process" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--json"]) == ExitCode.UNREADABLE
    assert json.loads(capsys.readouterr().out)["kind"] in ("missing", "not_a_store")
    (snapshot, *_) = sorted((path / "snapshots").iterdir())
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.write_bytes(data)
    with pytest.raises(StoreError) as damaged:
        verify(path)
    assert damaged.value.kind == "corrupt"
    assert snapshot.name in str(damaged.value)
    assert main(["verify", str(path)]) == ExitCode.FAILED
    report, outputs = back(path)
    assert (report.daemons[ORIGIN].sequence, outputs) == (10, [11])


# ---------------------------------------------------------------- what a user chooses


def test_a_daemon_that_diverged_goes_on_from_what_it_emitted(tmp_path: Path) -> None:
    config = DaemonHostConfig(durability="journal", on_divergence="continue")
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        for sequence in range(1, 4):
            runtime.deliver(ORIGIN, event(sequence))
        before = runtime.deliver(ORIGIN, event(3)) == [] and 3
    with Store.open(tmp_path / "state") as store, node(store, Other) as runtime:
        daemon = runtime.recover().daemons[ORIGIN]
        assert daemon.divergence == Divergence(1, 1, 1, 1, "", 3)
        assert (daemon.error, daemon.sequence, daemon.rolled_back_from) == (None, before, None)
        assert said(runtime.deliver(ORIGIN, event(4))) == [8]
        assert runtime.export_chain(ORIGIN, tmp_path / "chain").last_sequence == 4
    assert verify(tmp_path / "state").outputs == 4
    # What it was after the divergence was kept before it took one event more.
    report, outputs = back(tmp_path / "state", Other)
    assert (report.daemons[ORIGIN].divergence, outputs) == (None, [10])


def test_a_raise_the_second_time_is_a_divergence(tmp_path: Path) -> None:
    class Refusing(Sum):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            if event.link.sequence < 3:
                raise RuntimeError("not again")
            return super().process(event)

    config = DaemonHostConfig(durability="journal", on_divergence="continue")
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        for sequence in (1, 2):
            runtime.deliver(ORIGIN, event(sequence))
    report, outputs = back(tmp_path / "state", Refusing)
    assert report.daemons[ORIGIN].divergence == Divergence(1, 1, 1, None, "RuntimeError", 2)
    assert outputs == [1]


def test_who_ends_the_process_did_not_diverge(tmp_path: Path) -> None:
    class Interrupted(Sum):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            raise KeyboardInterrupt

    config = DaemonHostConfig(durability="journal", on_divergence="continue")
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        runtime.deliver(ORIGIN, event(1))
    with Store.open(tmp_path / "state") as store, node(store, Interrupted) as runtime, pytest.raises(KeyboardInterrupt):
        runtime.recover()


@pytest.mark.parametrize("kind", [Sum, AsyncSum])
def test_with_a_snapshot_for_every_event_nothing_is_replayed(tmp_path: Path, kind: type[MeshDaemon]) -> None:
    config = DaemonHostConfig(durability="journal", on_divergence="snapshot_every_event")
    with Store.open(tmp_path / "state") as store, node(store, kind) as runtime:
        runtime.spawn("sum", KEY, config)
        for sequence in range(1, 4):
            assert said(runtime.deliver(ORIGIN, event(sequence))) == [sequence]
        runtime.send_many(ORIGIN, [struct.pack("<q", 1)] * 5)
    report, outputs = back(tmp_path / "state", kind)
    assert (report.daemons[ORIGIN].replayed, report.daemons[ORIGIN].sequence, outputs) == (0, 8, [9])


def test_what_is_not_wanted_leaves_the_disk(tmp_path: Path) -> None:
    sizes = {}
    for snapshots_max in (1, 20):
        path = tmp_path / f"{snapshots_max}"
        config = DaemonHostConfig(
            durability="journal", auto_snapshot_interval=1, snapshots_max=snapshots_max, outputs_max=snapshots_max
        )
        with Store.open(path) as store, node(store) as runtime:
            runtime.spawn("sum", KEY, config)
            for sequence in range(1, 31):
                runtime.deliver(ORIGIN, event(sequence))
                runtime.snapshot(ORIGIN)
        (daemon,) = inspect(path).daemons
        assert daemon.snapshots == snapshots_max == len([*(path / "snapshots").iterdir()])
        sizes[snapshots_max] = (daemon.snapshot_bytes, daemon.input_bytes + daemon.output_bytes)
        assert verify(path).outputs <= snapshots_max + 1
        assert back(path)[1] == [31]
    assert sizes[20][0] > 15 * sizes[1][0]
    assert sizes[20][1] > 5 * sizes[1][1]


def test_of_snapshots_alone_the_newest_comes_back_in_a_new_epoch(tmp_path: Path) -> None:
    config = DaemonHostConfig(durability="snapshot")
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.spawn("sum", KEY, config)
        runtime.deliver(ORIGIN, event(1))
    # A shutdown keeps a last snapshot; so does `stop`.
    for epoch in (2, 3):
        with Store.open(tmp_path / "state") as store, node(store) as runtime:
            daemon = runtime.recover().daemons[ORIGIN]
            assert (daemon.epoch, daemon.sequence, daemon.rolled_back_from) == (epoch, epoch - 1, epoch - 1)
            assert said(runtime.deliver(ORIGIN, event(epoch))) == [epoch]
    with Store.open(tmp_path / "state") as store, node(store) as runtime:
        runtime.recover()
        runtime.stop(ORIGIN)
    (found,) = inspect(tmp_path / "state").daemons
    assert (found.epoch, found.sequence, found.runs, found.input_bytes, found.output_bytes) == (4, 3, False, 0, 0)
    verify(tmp_path / "state")


def test_a_torn_tail_is_counted(tmp_path: Path) -> None:
    program = CHILD.format(tests=str(Path(__file__).parent), path=str(tmp_path / "state"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(4):
            child.stdout.readline()
        child.kill()
    segment = max((tmp_path / "state" / "log").iterdir())
    with segment.open("ab") as file:
        file.write(b"FRAM half a frame")
    report, _ = back(tmp_path / "state")
    assert report.tail_bytes_cut >= 17
    assert back(tmp_path / "state")[0].tail_bytes_cut == 0


def test_a_node_brings_back_what_it_has(tmp_path: Path) -> None:
    path = filled(tmp_path / "state")
    with Store.open(path) as store, Node(Mesh.local(store=store), kinds={"sum": Sum}) as whole:
        assert whole.recovered.daemons[ORIGIN].sequence == 10
        assert said(whole.daemons.deliver(ORIGIN, event(11))) == [11]

    async def again() -> list[int]:
        with Store.open(path) as store:
            async with Node(Mesh.local(store=store), kinds={"sum": AsyncSum}) as whole:
                assert whole.recovered.daemons[ORIGIN].sequence == 11
                return said(await whole.daemons.deliver_async(ORIGIN, event(12)))

    assert asyncio.run(again()) == [12]


# ---------------------------------------------------------------- real processes

CHILD = """
import struct, sys
sys.path.insert(0, {tests!r})
from test_store import JOURNAL, KEY, ORIGIN, event, node
from meshos import Store
with Store.open({path!r}) as store, node(store) as runtime:
    report = runtime.recover()
    if ORIGIN not in report.daemons:
        runtime.spawn("sum", KEY, JOURNAL)
        seen = 0
    else:
        seen = report.daemons[ORIGIN].cursors.get(1, 0)
    print("from", seen, flush=True)
    while True:
        seen += 1
        runtime.deliver(ORIGIN, event(seen))
        print(seen, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="a signal that cannot be caught")
def test_a_process_that_is_killed_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "state"
    program = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    acknowledged = 0
    for life in range(8):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            began = int(child.stdout.readline().split()[1])
            # The kill may fall between a commit and the line that tells of it.
            assert began in (acknowledged, acknowledged + 1)
            lines = [child.stdout.readline() for _ in range(5 + 13 * life)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
            acknowledged = max(int(line) for line in lines if line.endswith("\n"))
    report, outputs = back(path)
    seen = report.daemons[ORIGIN].cursors[1]
    assert seen in (acknowledged, acknowledged + 1)
    assert outputs == [seen + 1]


SNAPSHOTS = """
import struct, sys
sys.path.insert(0, {tests!r})
from test_store import KEY, ORIGIN, event, node
from meshos import DaemonHostConfig, Store
with Store.open({path!r}) as store, node(store) as runtime:
    report = runtime.recover()
    if ORIGIN not in report.daemons:
        runtime.spawn("sum", KEY, DaemonHostConfig(durability="snapshot"))
        seen, epoch, back = 0, 1, 0
    else:
        daemon = report.daemons[ORIGIN]
        seen, epoch, back = daemon.cursors.get(1, 0), daemon.epoch, daemon.rolled_back_from
    print(epoch, seen, back, flush=True)
    while True:
        for seen in range(seen + 1, seen + 4):
            runtime.deliver(ORIGIN, event(seen))
        runtime.snapshot(ORIGIN)
        print(seen, flush=True)
        for ahead in range(seen + 1, seen + 3):
            runtime.deliver(ORIGIN, event(ahead))
        runtime.export_chain(ORIGIN, f"{path}.{{epoch}}.{{ahead}}")
        seen = ahead
"""


@pytest.mark.skipif(os.name != "posix", reason="a signal that cannot be caught")
def test_a_process_that_is_killed_goes_back_to_its_newest_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "state"
    program = SNAPSHOTS.format(tests=str(Path(__file__).parent), path=str(path))
    kept = 0
    for life in range(1, 7):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            epoch, seen, rolled_back = map(int, child.stdout.readline().split())
            # The kill may fall between a snapshot and the line that tells of it.
            assert (epoch, seen) in ((life, kept), (life, kept + 5))
            assert rolled_back == (seen if life > 1 else 0)
            lines = [child.stdout.readline() for _ in range(2 + 3 * life)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
            kept = max(int(line) for line in lines if line.endswith("\n"))
    with Store.open(path) as store, node(store) as runtime:
        daemon = runtime.recover().daemons[ORIGIN]
        assert daemon.epoch == 7
        assert daemon.sequence >= kept
        seen = daemon.cursors[1]
        assert said(runtime.deliver(ORIGIN, event(seen + 1))) == [seen + 1]
        report = runtime.export_chain(ORIGIN, tmp_path / "chain")
        assert [span.epoch for span in report.owners] == list(range(1, 8))
        assert [span.rolled_back_from is not None for span in report.owners] == [True] * 6 + [False]
        assert report.signed_through == report.last_sequence == seen + 1
    verify(path)
