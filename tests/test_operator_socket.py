"""The operator socket: private, bounded, strict, and no burden for the loop, whatever comes in."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from daemons import PATIENCE
from meshos import Mesh, MeshOsConfig, MeshOsRuntime, Node
from meshos._frames import BYTES_MAX
from meshos._node_client import NodeClient, Refused
from meshos.audit import AdminAuditChainAppender, AdminAuditRecord
from meshos.dispatch import LoggingDispatcher
from meshos.errors import (
    InvalidArgument,
    LoopClosed,
    NotReady,
    OperatorSocketError,
    RuntimeShutdownError,
    WaitTimeout,
)
from meshos.events import Cordon
from meshos.operator import (
    AdminEnvelope,
    AdminVerifier,
    DeckClient,
    FreezeCluster,
    IceEnvelope,
    OperatorKey,
    OperatorRegistry,
    OperatorSocket,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshos._core import LoopCore
    from meshos._frames import Message

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the system has no Unix-domain sockets")

ALICE, BOB = (OperatorKey(SigningKey(bytes([number]) * 32)) for number in (1, 2))
CLUSTER = b"test-cluster"
FREEZE: Message = {"kind": "freeze_cluster", "ttl_ms": 300_000}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    made = Path(mkdtemp(prefix="mesh"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "node.socket"


@pytest.fixture
def runtime() -> Iterator[MeshOsRuntime]:
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(BOB.verify_key, name="bob", roles=[Role.ICE])
    verifier = AdminVerifier(operators, cluster_id=CLUSTER)
    with MeshOsRuntime.start(MeshOsConfig(this_node=1), LoggingDispatcher(), admin_verifier=verifier) as started:
        yield started


@pytest.fixture
def opened(runtime: MeshOsRuntime, path: Path) -> Iterator[OperatorSocket]:
    with OperatorSocket(runtime, path) as made:
        yield made


def connected(opened: OperatorSocket) -> socket.socket:
    """Connect, waiting for space in the line: with a deadline the system would not wait at all."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(opened.path)
    stream.settimeout(PATIENCE)
    return stream


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def everything(stream: socket.socket) -> bytes:
    """Return what comes until the other side hangs up."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := stream.recv(65536):
            data += piece
    return data


def answers(data: bytes) -> list[Message]:
    found = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(json.loads(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def asked(opened: OperatorSocket, what: str, **fields: object) -> Message:
    with NodeClient(opened.path) as client:
        return client.ask(what, fields)


def refused(kind: str, path: Path, runtime: MeshOsRuntime) -> OperatorSocketError:
    with pytest.raises(OperatorSocketError) as caught:
        OperatorSocket(runtime, path)
    assert (caught.value.kind, caught.value.path) == (kind, str(path))
    return caught.value


# ---------------------------------------------------------------- the name in the file system


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folder has to be private")
def test_the_socket_is_private_from_its_first_moment(
    runtime: MeshOsRuntime, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.chmod", lambda *_: None)
    before = os.umask(0)
    try:
        with OperatorSocket(runtime, path):
            mode = path.lstat().st_mode
    finally:
        os.umask(before)

    assert mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["file", "folder", "link", "fifo", "served"])
def test_nothing_but_a_dead_socket_is_replaced(what: str, runtime: MeshOsRuntime, path: Path) -> None:
    with ExitStack() as stack:
        match what:
            case "file":
                path.write_text("precious")
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to(path.with_name("nowhere"))
            case "fifo":
                os.mkfifo(path)
            case _:
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.bind(str(path))
                other.listen(0)
        before = path.lstat()

        refused("occupied", path, runtime)

        assert os.path.samestat(path.lstat(), before)


def test_a_dead_socket_is_replaced(runtime: MeshOsRuntime, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    with OperatorSocket(runtime, path) as opened:
        assert asked(opened, "status")["node"] == "0x0000000000000001"


def test_of_many_that_find_a_dead_socket_one_gets_it(runtime: MeshOsRuntime, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    begin = threading.Barrier(8)
    made: list[OperatorSocket] = []

    def one() -> None:
        begin.wait(PATIENCE)
        with suppress(OperatorSocketError):
            made.append(OperatorSocket(runtime, path))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    (opened,) = made
    with opened:
        assert asked(opened, "status")["generation"] == runtime.snapshot().generation


def test_a_path_that_is_too_long_is_said_so(runtime: MeshOsRuntime, folder: Path) -> None:
    error = refused("path_too_long", folder / ("x" * 100), runtime)
    assert "100 bytes" in str(error)
    with pytest.raises(OperatorSocketError, match="too long"):
        NodeClient("/tmp/" + "x" * 100)


@pytest.mark.parametrize("name", ["missing/socket", "a\0b", "\ud800"])
def test_what_the_system_refuses_has_its_cause(name: str, runtime: MeshOsRuntime, folder: Path) -> None:
    assert refused("failed", folder / name, runtime).__cause__ is not None


def test_a_system_without_such_sockets_is_said_so(
    runtime: MeshOsRuntime, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    refused("unsupported", path, runtime)


def test_wrong_arguments_are_refused(runtime: MeshOsRuntime, path: Path) -> None:
    with pytest.raises(TypeError):
        OperatorSocket(object(), path)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        OperatorSocket(runtime, b"x")  # type: ignore[arg-type]
    for number in (0, 257):
        with pytest.raises(InvalidArgument):
            OperatorSocket(runtime, path, connections_max=number)
    for span in (timedelta(0), timedelta(seconds=-1), timedelta(hours=2)):
        with pytest.raises(InvalidArgument):
            OperatorSocket(runtime, path, request_timeout=span)
    assert not path.exists()


def test_a_node_is_served_once_it_was_started(path: Path) -> None:
    node = Node(Mesh.local(), kinds={})
    with pytest.raises(NotReady):
        OperatorSocket(node, path)
    with node, OperatorSocket(node, path) as opened:
        assert int(str(asked(opened, "status")["node"]), 16) == node.mesh.node_id


def test_a_node_opens_and_closes_its_own(path: Path) -> None:
    with Node(Mesh.local(), kinds={}, operator_socket=path):
        with NodeClient(path) as client:
            assert client.ask("status")["authority"] == "refused"
        other = Node(Mesh.local(), kinds={}, operator_socket=path)
        with pytest.raises(OperatorSocketError):
            other.start()
        with pytest.raises(NotReady):
            _ = other.runtime
        other.shutdown()
        assert path.exists()
    assert not path.exists()
    with pytest.raises(TypeError):
        Node(Mesh.local(), kinds={}, operator_socket=b"x")  # type: ignore[arg-type]


# ---------------------------------------------------------------- requests


def test_a_command_is_obeyed_for_its_signatures(opened: OperatorSocket, runtime: MeshOsRuntime) -> None:
    text = str(asked(opened, "propose", action=FREEZE, reason="test")["envelope"])
    proposed = IceEnvelope.from_text(text)
    assert (proposed.action, proposed.reason, proposed.signatures) == (
        FreezeCluster(timedelta(minutes=5)),
        "test",
        (),
    )

    unsigned = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test").to_text()
    alone = proposed.with_signatures([ALICE.sign(proposed)]).to_text()
    for bundle, kind in ((unsigned, "unsigned_rejected"), (alone, "insufficient_signatures")):
        with pytest.raises(Refused) as caught:
            asked(opened, "submit", envelope=bundle, timeout_ms=5000)
        assert caught.value.kind == kind
        assert runtime.audits()[-1].seq == caught.value.audit_seq
    assert runtime.snapshot().freeze_until is None

    bundle = proposed.with_signatures([ALICE.sign(proposed), BOB.sign(proposed)]).to_text()
    receipt = asked(opened, "submit", envelope=bundle, timeout_ms=5000)
    assert (receipt["verdict"], receipt["event_kind"]) == ("accepted", "freeze_cluster")
    assert runtime.snapshot().freeze_until is not None
    assert [each["bucket"] for each in cast("list[Message]", asked(opened, "cooldowns")["cooldowns"])] == [
        "cluster:freeze"
    ]


def test_ordinary_commands_and_the_audit(opened: OperatorSocket, runtime: MeshOsRuntime) -> None:
    assert asked(opened, "policy") == {"cluster_id": CLUSTER.hex(), "ice_threshold": 2}
    for node in (5, 6):
        envelope = AdminEnvelope(event=Cordon(node), cluster_id=CLUSTER, reason="\x1b[2J")
        asked(opened, "submit", envelope=envelope.with_signature(ALICE.sign(envelope)).to_text(), timeout_ms=5000)

    records = cast("list[Message]", asked(opened, "audit", since=1)["records"])
    assert [(record["seq"], record["event"]) for record in records] == [
        (2, {"kind": "cordon", "node": "0x0000000000000006"})
    ]
    assert asked(opened, "audit", since=2) == {"records": []}
    assert runtime.snapshot().peers[5].cordoned


@pytest.mark.parametrize(
    "action",
    [
        {"kind": "thaw_cluster"},
        {"kind": "flush_avoid_lists", "scope": {"kind": "global"}},
        {"kind": "flush_avoid_lists", "scope": {"kind": "local", "node": "0x0000000000000001"}},
        {"kind": "flush_avoid_lists", "scope": {"kind": "on_peer", "peer": "0x0000000000000009"}},
        {"kind": "force_evict_replica", "chain": "0x00000000000000ff", "victim": "0x0000000000000001"},
        {"kind": "force_restart_daemon", "daemon": {"id": "0x0000000000000007", "name": "seven"}},
        {"kind": "force_cutover", "chain": "0x00000000000000ff", "target": "0x0000000000000001"},
        {"kind": "kill_migration", "migration": "0x0000000000000007"},
        FREEZE,
    ],
    ids=lambda action: action["kind"],
)
def test_every_action_is_proposed_as_it_was_written(action: Message, opened: OperatorSocket) -> None:
    from meshos import _plain

    text = str(asked(opened, "propose", action=action, reason="test")["envelope"])
    assert _plain.order(IceEnvelope.from_text(text).action) == action


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"ask": "status"},
        {"meshos": 2, "ask": "status"},
        {"meshos": "1", "ask": "status"},
        {"meshos": 1},
        {"meshos": 1, "ask": "shutdown"},
        {"meshos": 1, "ask": ["status"]},
        {"meshos": 1, "ask": "status", "x" * 5000: 1},
        {"meshos": 1, "ask": "audit", "since": -1},
        {"meshos": 1, "ask": "audit", "since": 1.5},
        {"meshos": 1, "ask": "audit", "since": True},
        {"meshos": 1, "ask": "audit", "since": 10**4000},
        {"meshos": 1, "ask": "submit"},
        {"meshos": 1, "ask": "submit", "envelope": "x", "timeout_ms": 60_001},
        {"meshos": 1, "ask": "submit", "envelope": 7, "timeout_ms": 1},
        {"meshos": 1, "ask": "propose"},
        {"meshos": 1, "ask": "propose", "action": FREEZE},
        {"meshos": 1, "ask": "propose", "action": FREEZE, "reason": "x" * 2000},
        {"meshos": 1, "ask": "propose", "action": FREEZE, "reason": "\ud800"},
        {"meshos": 1, "ask": "submit", "envelope": "\ud800", "timeout_ms": 1},
        {
            "meshos": 1,
            "ask": "propose",
            "action": {"kind": "force_restart_daemon", "daemon": {"id": "7", "name": "\ud800"}},
            "reason": "x",
        },
        {
            "meshos": 1,
            "ask": "propose",
            "action": {"kind": "force_restart_daemon", "daemon": {"id": "7", "name": "x" * 300}},
            "reason": "x",
        },
        {"meshos": 1, "ask": "propose", "action": {"kind": "freeze_cluster", "ttl_ms": 1 << 41}, "reason": "x"},
        {"meshos": 1, "ask": "propose", "action": FREEZE, "reason": "x", "valid_for_ms": -1},
        {"meshos": 1, "ask": "propose", "action": {**FREEZE, "more": 1}, "reason": "x"},
        {"meshos": 1, "ask": "propose", "action": {"kind": "cordon", "node": "1"}, "reason": "x"},
        {"meshos": 1, "ask": "propose", "action": {"kind": "kill_migration", "migration": 7}, "reason": "x"},
        {"meshos": 1, "ask": "propose", "action": {"kind": "kill_migration", "migration": "+7"}, "reason": "x"},
        {"meshos": 1, "ask": "propose", "action": {"kind": "flush_avoid_lists", "scope": "global"}, "reason": "x"},
    ],
    ids=lambda request: json.dumps(request)[:60],
)
def test_a_wrong_request_is_refused_and_the_next_one_served(request_: Message, opened: OperatorSocket) -> None:
    good = framed(b'{"meshos":1,"ask":"policy"}')
    with connected(opened) as stream:
        stream.sendall(framed(json.dumps(request_).encode()) + good)
        stream.shutdown(socket.SHUT_WR)
        first, second = answers(everything(stream))

    assert first["kind"] in ("invalid_argument", "bad_envelope", "bad_frame")
    assert len(str(first)) < 500
    assert "ok" in second


WORDS = st.sampled_from(
    [
        *[
            "status",
            "policy",
            "cooldowns",
            "audit",
            "propose",
            "submit",
            "global",
            "local",
            "on_peer",
            "cordon",
            "7",
            "0xff",
            "-1",
            "0x10000000000000000",
        ],
        AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test").to_text(),
    ]
)
NAMES = st.sampled_from(
    [
        "action",
        "reason",
        "valid_for_ms",
        "envelope",
        "timeout_ms",
        "since",
        "kind",
        "scope",
        "node",
        "peer",
        "daemon",
        "id",
        "name",
        "ttl_ms",
        "chain",
        "victim",
        "target",
        "migration",
        "meshos",
        "ask",
    ]
)
KINDS = [
    "freeze_cluster",
    "flush_avoid_lists",
    "force_evict_replica",
    "force_restart_daemon",
    "force_cutover",
    "kill_migration",
]
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(NAMES, WORDS), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ask=WORDS, fields=st.dictionaries(NAMES, VALUES, max_size=4), action=st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_request_finds_a_bug(ask: str, fields: Message, action: Message, opened: OperatorSocket) -> None:
    from meshos._requests import answer

    core = opened._server._core
    proposal: Message = {**fields, "meshos": 1, "ask": "propose", "reason": "x"}
    requests = [{**proposal, "action": {**action, "kind": kind}} for kind in KINDS]
    requests.append({**fields, "meshos": 1, "ask": ask})
    for request in requests:
        told = answer(core, {**request, **({"timeout_ms": 0} if ask == "submit" else {})})
        assert told.keys() == {"ok"} or told["kind"] != "other", (request, told)
        json.dumps(told)


# ---------------------------------------------------------------- hostile bytes


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        b"\x05\0\0\0{}",
        struct.pack("<I", BYTES_MAX + 1),
        b"\xff\xff\xff\xff" + b"{}" * 100,
        framed(b""),
        framed(b"nonsense"),
        framed(b"[]"),
        framed(b"7"),
        framed(b'{"meshos":1,"ask":"status"'),
        framed(b'{"meshos":1,"ask":"status"} {}'),
        framed(b'{"meshos":1,"meshos":1,"ask":"status"}'),
        framed(b'{"meshos":NaN,"ask":"status"}'),
        framed(b'{"meshos":1,"ask":"\xff"}'),
        framed(b'{"meshos":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        framed(b'{"meshos":1' + b"0" * 10_000 + b"}"),
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(data: bytes, opened: OperatorSocket) -> None:
    with connected(opened) as stream:
        with suppress(BrokenPipeError):
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        found = answers(everything(stream))

    assert [each["kind"] for each in found] == ["bad_frame"]
    assert asked(opened, "status")["authority"] == "verified"


def test_an_announced_length_costs_nothing(opened: OperatorSocket) -> None:
    import tracemalloc

    with ExitStack() as stack:
        streams = [stack.enter_context(connected(opened)) for _ in range(30)]
        tracemalloc.start()
        try:
            for stream in streams:
                stream.sendall(struct.pack("<I", BYTES_MAX) + b"{")
            # An answer on another connection comes when those bytes were taken, or soon will be.
            with NodeClient(opened.path) as client:
                for _ in range(20):
                    client.ask("status")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < BYTES_MAX


def quick(runtime: MeshOsRuntime, path: Path) -> OperatorSocket:
    return OperatorSocket(runtime, path, request_timeout=timedelta(milliseconds=200))


def test_who_writes_too_slowly_is_cut(runtime: MeshOsRuntime, path: Path) -> None:
    with quick(runtime, path) as opened, connected(opened) as stream:
        stream.sendall(struct.pack("<I", 100) + b"{")
        assert everything(stream) == b""
        assert asked(opened, "status")


def test_who_writes_a_byte_now_and_then_is_cut_as_well(runtime: MeshOsRuntime, path: Path) -> None:
    """The deadline is of the message and not of each byte."""
    with quick(runtime, path) as opened, connected(opened) as stream:
        stream.settimeout(0.05)
        stream.sendall(struct.pack("<I", 100_000))
        with suppress(BrokenPipeError):
            for _ in range(int(PATIENCE / 0.05)):
                stream.sendall(b" ")
                with suppress(TimeoutError):
                    assert stream.recv(1) == b""
                    break
            else:
                pytest.fail("it was never cut")


def test_who_reads_nothing_is_cut_and_holds_up_nobody(runtime: MeshOsRuntime, path: Path) -> None:
    with quick(runtime, path) as opened, connected(opened) as stream:
        request = framed(b'{"meshos":1,"ask":"status"}')
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            stream.sendall(request * 1_000_000)
        assert asked(opened, "status")


def test_a_hundred_connections_are_too_many_and_the_loop_goes_on(
    opened: OperatorSocket, runtime: MeshOsRuntime
) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(connected(opened)) for _ in range(100)]
        # Connections are admitted in order: the newest was refused when all before it were looked at.
        (busy,) = answers(everything(streams[-1]))
        assert busy["kind"] == "busy"
        with pytest.raises(Refused) as caught:
            asked(opened, "status")
        assert caught.value.kind == "busy"
        assert opened.refused == 100 - 32 + 1
        DeckClient.from_runtime(runtime, ALICE).admin.commit(Cordon(5), reason="test")

        streams[0].sendall(framed(b'{"meshos":1,"ask":"status"}'))
        streams[0].shutdown(socket.SHUT_WR)
        assert answers(everything(streams[0]))


def test_a_bug_of_ours_is_an_answer_without_its_text(
    opened: OperatorSocket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> Message:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("meshos._plain.status", broken)

    with pytest.raises(Refused) as caught:
        asked(opened, "status")

    assert (caught.value.kind, caught.value.error) == ("other", "ZeroDivisionError")
    assert "secret" not in str(caught.value)
    assert "a request of the operator socket failed" in caplog.text


# ---------------------------------------------------------------- the end


def test_a_close_removes_the_socket_and_ends_connections(runtime: MeshOsRuntime, path: Path) -> None:
    opened = OperatorSocket(runtime, path)
    with connected(opened) as stream:
        opened.close()
        assert everything(stream) == b""
    assert (opened.closed, path.exists()) == (True, False)
    opened.close()
    assert "closed" in repr(opened)


def test_a_close_leaves_alone_what_took_the_name(opened: OperatorSocket, path: Path) -> None:
    path.unlink()
    path.write_text("precious")
    opened.close()
    assert path.read_text() == "precious"


def test_the_end_of_the_runtime_ends_the_socket(opened: OperatorSocket, runtime: MeshOsRuntime, path: Path) -> None:
    with connected(opened) as stream:
        runtime.shutdown()
        assert everything(stream) == b""
    opened._server._acceptor.join(PATIENCE)
    assert (opened.closed, path.exists()) == (True, False)


class Held:
    """A core whose verdicts come when the test says so."""

    def __init__(self, core: LoopCore) -> None:
        self.core = core
        self.begun, self.verdict = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def is_alive(self) -> bool:
        return self.core.is_alive()

    def commit(self, envelope: AdminEnvelope, timeout: timedelta) -> object:
        self.begun.set()
        assert self.verdict.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.core.commit(envelope, timeout)


@pytest.fixture
def held(opened: OperatorSocket) -> Held:
    made = Held(opened._server._core)
    opened._server._core = cast("LoopCore", made)
    return made


def submitted(opened: OperatorSocket, held: Held) -> tuple[threading.Thread, list[object]]:
    envelope = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test")
    text = envelope.with_signature(ALICE.sign(envelope)).to_text()
    found: list[object] = []

    def run() -> None:
        try:
            found.append(asked(opened, "submit", envelope=text, timeout_ms=5000))
        except (Refused, LoopClosed) as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert held.begun.wait(PATIENCE)
    return thread, found


def test_what_waits_for_a_verdict_is_answered_before_the_end(opened: OperatorSocket, held: Held) -> None:
    thread, found = submitted(opened, held)
    closer = threading.Thread(target=opened.close)
    closer.start()
    held.verdict.set()
    for each in (thread, closer):
        each.join(PATIENCE)
    assert cast("Message", found[0])["verdict"] == "accepted"


def test_a_close_does_not_wait_for_ever(opened: OperatorSocket, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshos._socket.CLOSE_TIMEOUT", timedelta(milliseconds=50))
    thread, found = submitted(opened, held)
    opened.close()
    thread.join(PATIENCE)
    held.verdict.set()
    assert isinstance(found[0], LoopClosed)


def test_others_are_served_while_one_waits(opened: OperatorSocket, held: Held) -> None:
    thread, found = submitted(opened, held)
    with pytest.raises(Refused), NodeClient(opened.path) as client:
        client.ask("nothing")
    held.error = WaitTimeout("the verdict", timedelta(seconds=5))
    held.verdict.set()
    thread.join(PATIENCE)
    assert cast("Refused", found[0]).kind == "timeout"


def test_a_runtime_that_ends_in_the_middle_answers(opened: OperatorSocket, held: Held, runtime: MeshOsRuntime) -> None:
    thread, found = submitted(opened, held)
    runtime.shutdown()
    held.verdict.set()
    thread.join(PATIENCE)
    assert cast("Refused", found[0]).kind == "closed"


class Stuck(AdminAuditChainAppender):
    """Keeps nothing until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def append(self, _: AdminAuditRecord, /) -> None:
        self.begun.set()
        assert self.go.wait(PATIENCE)


def test_a_command_whose_record_is_never_kept_is_answered_at_the_end(path: Path) -> None:
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(BOB.verify_key, name="bob", roles=[Role.ICE])
    stuck = Stuck()
    runtime = MeshOsRuntime.start(
        MeshOsConfig(this_node=1, audit="required"),
        LoggingDispatcher(),
        admin_verifier=AdminVerifier(operators, cluster_id=CLUSTER),
        admin_audit_appender=stuck,
    )
    envelope = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test")
    text = envelope.with_signature(ALICE.sign(envelope)).to_text()
    found: list[str] = []

    def submit(opened: OperatorSocket) -> None:
        try:
            asked(opened, "submit", envelope=text, timeout_ms=60_000)
        except (Refused, LoopClosed) as error:
            found.append(error.kind)

    with OperatorSocket(runtime, path) as opened:
        thread = threading.Thread(target=submit, args=(opened,))
        thread.start()
        assert stuck.begun.wait(PATIENCE)
        assert asked(opened, "status")["audit_head_seq"] in (0, 1)
        try:
            with pytest.raises(RuntimeShutdownError):
                runtime.shutdown_with_timeout(timedelta(milliseconds=100))
            thread.join(PATIENCE)
        finally:
            stuck.go.set()
    assert found[0] in ("closed", "audit_required")


def test_a_client_that_goes_away_in_the_middle_is_no_harm(opened: OperatorSocket, held: Held) -> None:
    envelope = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test")
    request = {"meshos": 1, "ask": "submit", "envelope": envelope.to_text(), "timeout_ms": 5000}
    with connected(opened) as stream:
        stream.sendall(framed(json.dumps(request).encode()))
        assert held.begun.wait(PATIENCE)
    held.verdict.set()
    opened.close()
    assert not opened._server._connections


def test_the_twins(runtime: MeshOsRuntime, path: Path) -> None:
    async def main() -> None:
        async with OperatorSocket(runtime, path) as opened:
            assert path.exists()
            await opened.close_async()
            assert opened.closed
        assert not path.exists()

    asyncio.run(main())


def test_one_that_is_dropped_warns_and_ends(runtime: MeshOsRuntime, path: Path) -> None:
    opened = [OperatorSocket(runtime, path)]
    acceptor = opened[0]._server._acceptor
    with pytest.warns(ResourceWarning, match="dropped without a close"):
        opened.clear()
    acceptor.join(PATIENCE)
    assert not path.exists()


FORKED = """
import os, socket, sys
from meshos import MeshOsConfig, MeshOsRuntime
from meshos.dispatch import LoggingDispatcher
from meshos.operator import OperatorSocket

path = sys.argv[1]
runtime = MeshOsRuntime.start(MeshOsConfig(this_node=1), LoggingDispatcher())
opened = OperatorSocket(runtime, path)
wait, go = os.pipe()
child = os.fork()
if child == 0:
    os.close(go)
    assert opened.closed
    opened.close()
    os.read(wait, 1)
    os._exit(0)
os.link(path, path + "2")
opened.close()
runtime.shutdown()
try:
    socket.socket(socket.AF_UNIX).connect(path + "2")
    print("served")
except ConnectionRefusedError:
    print("dead")
os.close(wait)
os.close(go)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork, and a second name for a socket")
def test_a_child_process_lets_go_of_the_socket(path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("dead\n", "")


# ---------------------------------------------------------------- the client


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", LoopClosed),
        (b"\x01", OperatorSocketError),
        (framed(b"{}"), OperatorSocketError),
        (framed(b'{"ok":7}'), OperatorSocketError),
        (framed(b'{"ok":{},"error":"x"}'), OperatorSocketError),
        (struct.pack("<I", BYTES_MAX + 1), OperatorSocketError),
        (framed(b'{"error":"E","kind":"k","message":"m"}'), Refused),
    ],
)
def test_a_client_trusts_no_answer(answer: bytes, expected: type[Exception], path: Path) -> None:
    def serve(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            stream.recv(65536)
            stream.sendall(answer)

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with NodeClient(path) as client, pytest.raises(expected):
            client.ask("status")
        thread.join(PATIENCE)


def test_a_client_does_not_stand_in_a_line_that_is_full(path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(NodeClient(path))
        with pytest.raises(OperatorSocketError) as caught:
            NodeClient(path)
    assert caught.value.kind == "busy"


def test_a_client_waits_no_longer_than_it_says(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        with NodeClient(path, timeout=timedelta(milliseconds=50)) as client, pytest.raises(WaitTimeout):
            client.ask("status")
