"""Records of a behaviour loop in a store: kept with the rest, checked with the rest, gone on from."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemons import Counter
from loops import TICK, seen
from meshos import Identity, Mesh, MeshOsConfig, Node, Store
from meshos.audit import (
    AdminAuditRecord,
    LogRecord,
    StoreAdminAuditAppender,
    StoreLogAppender,
    read_records,
    verify_records,
)
from meshos.cli import main
from meshos.errors import AppendFailed, ChainError, InvalidArgument, StoreError
from meshos.events import Cordon, LogLevel, LogLine, UnsignedAdminEvent
from meshos.store import verify

CONFIG = MeshOsConfig(tick_interval=TICK, authority="open")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def commanded(folder: Path, nodes: list[int]) -> None:
    """Run a node that is told to cordon others."""
    with Store.open(folder) as store, Node(Mesh.local(store=store), kinds={"counter": Counter}, config=CONFIG) as node:
        for number in nodes:
            node.runtime.handle().publish(UnsignedAdminEvent(Cordon(number)))
        seen(node.runtime, lambda s: all(number in s.peers and s.peers[number].cordoned for number in nodes))
        node.runtime.handle().publish(LogLine(LogLevel.INFO, "all of them"))
        seen(node.runtime, lambda s: s.audit_head_seq == len(nodes))


def test_a_node_keeps_its_records_in_its_store_and_goes_on_from_them(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    commanded(folder, [7, 8])

    audit = read_records(folder)
    assert [record.event for record in audit if isinstance(record, AdminAuditRecord)] == [Cordon(7), Cordon(8)]
    assert any(
        isinstance(record, LogRecord) and record.message == "all of them" for record in read_records(folder, kind="log")
    )
    proof = verify(folder)
    assert proof.records >= 3

    with Store.open(folder) as store, Node(Mesh.local(store=store), kinds={}, config=CONFIG) as node:
        snapshot = seen(node.runtime, lambda s: 8 in s.peers)
        assert snapshot.peers[7].cordoned
        assert snapshot.peers[8].cordoned
    commanded(folder, [9])
    events = [record.event for record in read_records(folder) if isinstance(record, AdminAuditRecord)]
    assert events == [Cordon(7), Cordon(8), Cordon(9)]


def test_what_is_kept_is_signed_by_the_node_of_the_store(tmp_path: Path) -> None:
    node = Identity.generate()
    with (
        Store.open(tmp_path / "state", identity=node) as store,
        Node(Mesh.local(store=store), kinds={}, config=CONFIG) as running,
    ):
        running.runtime.handle().publish(UnsignedAdminEvent(Cordon(7)))
        seen(running.runtime, lambda s: s.audit_head_seq == 1)
    report = verify_records(tmp_path / "state", signer=node.entity_id)
    assert report.records == report.signed_through == 1
    other = verify_records(tmp_path / "state", signer=Identity.generate().entity_id, head_digest=report.head_digest)
    assert other.signed_through == 0
    with pytest.raises(ChainError):
        verify_records(tmp_path / "state", head_digest=bytes(32))


def test_one_appender_at_a_time(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store:
        first = StoreAdminAuditAppender(store)
        with pytest.raises(BlockingIOError):
            StoreAdminAuditAppender(store)
        log = StoreLogAppender(store)
        first.close()
        first.close()
        again = StoreAdminAuditAppender(store)
        log.append(LogRecord(seq=1, at=NOON, level=LogLevel.INFO, node=7, daemon=None, message="kept"))
        log.close()
        with pytest.raises(AppendFailed, match="closed"):
            log.append(LogRecord(seq=2, at=NOON, level=LogLevel.INFO, node=7, daemon=None, message="too late"))
        again.close()
    (line,) = read_records(tmp_path / "state", kind="log")
    assert isinstance(line, LogRecord)
    assert line.message == "kept"
    with pytest.raises(InvalidArgument, match="none of"):
        read_records(tmp_path / "state", kind="action")
    with pytest.raises(InvalidArgument, match="kind"):
        read_records(tmp_path / "state", kind="gossip")  # type: ignore[arg-type]


CHILD = """
    import sys
    from meshos import MeshOsConfig, MeshOsRuntime, Store
    from meshos.audit import StoreAdminAuditAppender
    from meshos.dispatch import LoggingDispatcher
    from meshos.events import Cordon, UnsignedAdminEvent
    from loops import seen

    with MeshOsRuntime.start(MeshOsConfig(this_node=77, authority="open"), LoggingDispatcher()) as runtime:
        for number in range(1, 6):
            runtime.handle().publish(UnsignedAdminEvent(Cordon(number)))
        seen(runtime, lambda s: s.audit_head_seq == 5)
        records = runtime.audits()
    keeper = StoreAdminAuditAppender(Store.open(sys.argv[1]))
    for record in sorted(records, key=lambda record: record.seq):
        keeper.append(record)
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_records_outlive_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "kept\n"
        with pytest.raises(StoreError) as locked:
            read_records(folder)
        assert locked.value.kind == "locked"
        os.kill(child.pid, signal.SIGKILL)
    assert [record.seq for record in read_records(folder)] == [1, 2, 3, 4, 5]
    assert main(["audit", "show", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["records"]) == 5
    assert main(["audit", "verify", str(folder), "--records", "audit"]) == 0
    capsys.readouterr()
    assert main(["verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] >= 5
