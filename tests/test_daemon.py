"""What user code may do, and what comes of it when it does something else."""

import asyncio
import struct
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

import daemons
from daemons import Counter, Echo, Gated, event, node, numbered, spawned, witnessed
from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, Output
from meshos.control import BackpressureOff, BackpressureOn, DaemonControl, DrainStart, Resume, Shutdown
from meshos.daemon import DaemonHealth, DaemonHost, Degraded, Healthy, Unhealthy
from meshos.errors import (
    CallbackFailed,
    DaemonNotFound,
    InvalidDaemon,
    ProcessFailed,
    ReentrantCallError,
    RestoreFailed,
    SnapshotFailed,
)
from meshos.events import Crashed, HealthChanged, Registered, SaturationChanged


class Does(MeshDaemon):
    """Its `process` is what a test gives it."""

    name = "does"

    def __init__(self, body: Callable[[CausalEvent], object]) -> None:
        self.body = body

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        return self.body(event)  # type: ignore[return-value]


def host(body: Callable[[CausalEvent], object]) -> DaemonHost:
    return DaemonHost(Does(body), Identity.generate())


# ---------------------------------------------------------------- what `process` returns


class Bytes(bytes):
    pass


def generated(*items: object) -> Iterator[object]:
    yield from items


@pytest.mark.parametrize(
    ("result", "payloads"),
    [
        (None, []),
        (b"one", [b"one"]),
        (b"", [b""]),
        (bytearray(b"one"), [b"one"]),
        (memoryview(b"a one")[2:], [b"one"]),
        (memoryview(b"abcdef")[::2], [b"ace"]),
        (Output(b"one"), [b"one"]),
        ([], []),
        ((), []),
        ([b"one", bytearray(b"two"), memoryview(b"three"), Output(b"four")], [b"one", b"two", b"three", b"four"]),
        ((b"one", b"two"), [b"one", b"two"]),
        (iter([b"one"]), [b"one"]),
        ({b"one": 1}, [b"one"]),
        ({b"one"}, [b"one"]),
    ],
    ids=repr,
)
def test_outputs_come_in_every_allowed_form(result: object, payloads: list[bytes]) -> None:
    kept = host(lambda event: result)

    outputs = kept.deliver(event(1))

    assert [output.payload for output in outputs] == payloads
    assert [type(output.payload) for output in outputs] == [bytes] * len(payloads)
    assert [output.sequence for output in outputs] == list(range(1, len(payloads) + 1))
    assert kept.stats.events_emitted == len(payloads)


def test_a_generator_is_run_to_its_end() -> None:
    kept = host(lambda event: generated(b"one", Output(b"two"), bytearray(b"three")))

    outputs = kept.deliver(event(1))

    assert [output.payload for output in outputs] == [b"one", b"two", b"three"]


def test_a_changed_bytearray_does_not_change_what_was_emitted() -> None:
    buffer = bytearray(b"before")
    kept = host(lambda event: buffer)

    (output,) = kept.deliver(event(1))
    buffer[:] = b"later!"

    assert output.payload == b"before"


def test_a_subclass_of_bytes_keeps_its_bytes() -> None:
    kept = host(lambda event: Bytes(b"one"))

    (output,) = kept.deliver(event(1))

    assert output.payload == b"one"


def test_an_echo_is_the_very_object_it_was_given() -> None:
    payload = bytes(100)
    kept = host(lambda event: event.payload)

    (output,) = kept.deliver(event(1, payload))

    assert output.payload is payload


@pytest.mark.parametrize(
    "result",
    [
        "text",
        7,
        1.5,
        True,
        object(),
        [1],
        [b"one", None],
        ["text"],
        [[b"one"]],
        {"text": 1},
        [b"one", 2],
        generated(b"x", 1),
    ],
    ids=repr,
)
def test_anything_else_is_refused_and_changes_nothing(result: object) -> None:
    kept = host(lambda event: result)
    before = (kept.head_link, kept.head_digest)

    with pytest.raises(ProcessFailed) as failed:
        kept.deliver(event(1))

    assert failed.value.kind == "wrong_type"
    assert failed.value.__cause__ is None
    assert (kept.head_link, kept.head_digest) == before
    assert (kept.stats.errors, kept.stats.events_processed, kept.stats.events_emitted) == (1, 0, 0)


# ---------------------------------------------------------------- what `process` raises


def raises(error: BaseException) -> Callable[[CausalEvent], object]:
    def body(event: CausalEvent) -> object:
        raise error

    return body


def test_an_exception_is_the_cause_with_its_traceback() -> None:
    error = KeyError("missing")

    with pytest.raises(ProcessFailed) as failed:
        host(raises(error)).deliver(event(3, origin=9))

    assert failed.value.__cause__ is error
    assert "body" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert failed.value.kind == "raised"
    assert (failed.value.event_origin, failed.value.event_sequence) == (9, 3)
    assert "KeyError" in str(failed.value)


def test_a_raise_leaves_chain_and_cursor_where_they_were() -> None:
    fails = [True]

    def body(event: CausalEvent) -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        if fails.pop():
            raise ValueError("half way")

    kept = host(body)
    before = (kept.head_link, kept.head_digest)

    with pytest.raises(ProcessFailed):
        kept.deliver(event(1))

    assert (kept.head_link, kept.head_digest) == before
    fails.append(False)
    assert [output.sequence for output in kept.deliver(event(1))] == [1, 2]
    assert (kept.stats.errors, kept.stats.events_processed, kept.stats.events_emitted) == (1, 1, 2)


def test_a_crash_is_told_to_observers() -> None:
    with node() as runtime:
        witness = witnessed(runtime.daemon_registry())
        origin = spawned(runtime, Does(raises(KeyError("missing"))))

        with pytest.raises(ProcessFailed):
            runtime.deliver(origin, event(1))

        assert witness.signals(2) == [Registered(), Crashed("process raised KeyError: 'missing'")]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error", [Unprintable(), ValueError("\ud800"), MemoryError(), RecursionError(), StopIteration()]
)
def test_every_exception_is_reported(error: Exception) -> None:
    with pytest.raises(ProcessFailed) as failed:
        host(raises(error)).deliver(event(1))

    assert failed.value.__cause__ is error
    str(failed.value).encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_exit_passes_through_and_changes_nothing(error: BaseException) -> None:
    kept = host(raises(error))

    with pytest.raises(type(error)) as passed:
        kept.deliver(event(1))

    assert passed.value is error
    assert (kept.sequence, kept.stats.events_processed) == (0, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_on_a_lane_reaches_its_sender_and_the_daemon_goes_on(error: type[BaseException]) -> None:
    stop = [error]

    def body(event: CausalEvent) -> object:
        if stop:
            raise stop.pop()
        return b"on"

    with node() as runtime:
        origin = spawned(runtime, Does(body))

        with pytest.raises(error):
            runtime.send(origin, b"")

        assert runtime.send(origin, b"").processed == 1


def test_endless_recursion_is_an_error_of_the_daemon() -> None:
    def body(event: CausalEvent) -> object:
        return body(event)

    with pytest.raises(ProcessFailed) as failed:
        host(body).deliver(event(1))

    assert isinstance(failed.value.__cause__, RecursionError)


# ---------------------------------------------------------------- `async`


class Slow(MeshDaemon):
    name = "slow"

    def __init__(self) -> None:
        self.inside = 0
        self.most_inside = 0
        self.threads: set[str] = set()

    async def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(0)
        self.inside -= 1
        if event.payload == b"raise":
            raise ValueError("on purpose")
        return [event.payload]


class Stream(MeshDaemon):
    async def process(self, event: CausalEvent) -> AsyncIterator[bytes]:
        for number in range(3):
            await asyncio.sleep(0)
            yield bytes([number])
        if event.payload == b"raise":
            raise ValueError("on purpose")


class Plain(MeshDaemon):
    """A plain function that returns an awaitable."""

    def process(self, event: CausalEvent) -> Awaitable[Iterable[bytes]]:
        async def later() -> Iterable[bytes]:
            await asyncio.sleep(0)
            return generated(event.payload, b"more")  # type: ignore[return-value]

        return later()


class Awaits:
    def __await__(self) -> Iterator[object]:
        yield from asyncio.sleep(0).__await__()
        return b"done"  # type: ignore[return-value]


def test_a_coroutine_runs_on_a_thread_of_meshos() -> None:
    daemon = Slow()
    kept = DaemonHost(daemon, Identity.generate())

    assert [output.payload for output in kept.deliver(event(1, b"one"))] == [b"one"]
    assert daemon.threads == {"meshos-loop"}


def test_an_asynchronous_generator_emits_in_order() -> None:
    kept = DaemonHost(Stream(), Identity.generate())

    assert [output.payload for output in kept.deliver(event(1))] == [b"\0", b"\1", b"\2"]


def test_a_plain_function_may_return_an_awaitable() -> None:
    kept = DaemonHost(Plain(), Identity.generate())

    assert [output.payload for output in kept.deliver(event(1, b"one"))] == [b"one", b"more"]
    assert [output.payload for output in host(lambda event: Awaits()).deliver(event(1))] == [b"done"]


@pytest.mark.parametrize("cls", [Slow, Stream])
@pytest.mark.parametrize("call", ["deliver", "send"])
def test_a_coroutine_that_raises_leaves_nothing_behind(cls: type[MeshDaemon], call: str) -> None:
    with node() as runtime:
        origin = spawned(runtime, cls())

        with pytest.raises(ProcessFailed) as failed:
            getattr(runtime, call)(origin, event(1, b"raise"))

        assert isinstance(failed.value.__cause__, ValueError)
        assert "process" in [frame.name for frame in traceback.extract_tb(failed.value.__cause__.__traceback__)]
        assert runtime.deliver(origin, event(1, b"fine"))[0].sequence == 1


def test_a_coroutine_that_gives_a_coroutine_is_refused() -> None:
    async def inner() -> None:
        pass

    async def outer() -> object:
        made = inner()
        made.close()
        return made

    with pytest.raises(ProcessFailed) as failed:
        host(lambda event: outer()).deliver(event(1))

    assert failed.value.kind == "wrong_type"


def test_coroutines_of_one_daemon_never_overlap() -> None:
    daemon = Slow()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        senders = [daemons.Running(lambda: runtime.send_many(origin, [b""] * 20)) for _ in range(4)]
        for sender in senders:
            sender.thread.start()

        for sender in senders:
            sender.outcome()

    assert daemon.most_inside == 1


# ---------------------------------------------------------------- calls from inside


def calls(runtime: DaemonRuntime, origin: int) -> dict[str, Callable[[], object]]:
    handle = runtime.find(origin)
    assert handle is not None
    registry = runtime.daemon_registry()
    snapshot = DaemonHost(Counter(), Identity.generate()).take_snapshot()
    assert snapshot is not None
    identity, config = Identity.generate(), DaemonHostConfig()
    return {
        "deliver": lambda: runtime.deliver(origin, event(9)),
        "deliver_many": lambda: runtime.deliver_many(origin, [event(9)]),
        "send": lambda: runtime.send(origin, b""),
        "send_many": lambda: runtime.send_many(origin, [b""]),
        "spawn": lambda: runtime.spawn("echo", identity),
        "spawn_with_daemon": lambda: runtime.spawn_with_daemon(identity, config, Echo(), Echo),
        "spawn_from_snapshot": lambda: runtime.spawn_from_snapshot("echo", identity, snapshot),
        "spawn_from_snapshot_with_daemon": lambda: runtime.spawn_from_snapshot_with_daemon(
            identity, snapshot, config, Echo(), Echo
        ),
        "stop": lambda: runtime.stop(origin),
        "snapshot": lambda: runtime.snapshot(origin),
        "newest_snapshot": lambda: runtime.newest_snapshot(origin),
        "handle.snapshot": handle.snapshot,
        "export_chain": lambda: runtime.export_chain(origin, "never-written"),
        "with_daemon": lambda: runtime.with_daemon(origin, Echo, repr),
        "control": lambda: runtime.control(origin, Resume()),
        "shutdown": runtime.shutdown,
        "exit": lambda: runtime.__exit__(None, None, None),
        "mesh.close": runtime.mesh().close,
        "registry.deliver": lambda: registry.deliver(origin, event(9)),
        "registry.snapshot": lambda: registry.snapshot(origin),
        "registry.restore": lambda: registry.restore_from_snapshot(origin, snapshot),
        "registry.with_host": lambda: registry.with_host(origin, repr),
        "registry.control": lambda: registry.control(origin, Resume()),
        "registry.poll": registry.poll,
        "host": lambda: DaemonHost(Echo(), identity),
        "construct": lambda: runtime.factory_registry().construct("echo"),
    }


def attempt(attempts: dict[str, Callable[[], object]]) -> dict[str, object]:
    outcomes: dict[str, object] = {}
    for name, call in attempts.items():
        try:
            outcomes[name] = call()
        except Exception as error:
            outcomes[name] = type(error)
    return outcomes


@pytest.mark.parametrize("where", ["process", "snapshot", "restore", "health", "on_control", "generator"])
def test_a_call_that_may_wait_is_refused_inside_user_code(where: str) -> None:
    outcomes: dict[str, object] = {}
    armed: dict[str, Callable[[], object]] = {}

    def look() -> None:
        outcomes.update(attempt(armed))

    class Nosy(MeshDaemon):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            if where == "generator":
                yield b""
            if where in ("process", "generator"):
                look()

        def snapshot(self) -> bytes:
            if where == "snapshot":
                look()
            return b"state"

        def restore(self, state: bytes) -> None:
            if where == "restore":
                look()

        def health(self) -> DaemonHealth:
            if where == "health":
                look()
            return Healthy()

        def on_control(self, control: DaemonControl) -> None:
            if where == "on_control":
                look()

    with node(echo=Echo) as runtime:
        origin = spawned(runtime, Nosy())
        snapshot = runtime.snapshot(origin)
        assert snapshot is not None
        armed.update(calls(runtime, origin))

        match where:
            case "process" | "generator":
                runtime.deliver(origin, event(1))
            case "snapshot":
                runtime.snapshot(origin)
            case "restore":
                runtime.daemon_registry().restore_from_snapshot(origin, snapshot)
            case "health":
                runtime.daemon_registry().poll()
            case _:
                runtime.control(origin, Resume())

        assert outcomes == dict.fromkeys(armed, ReentrantCallError)
        armed.clear()
        assert runtime.daemon_count() == 1
        assert runtime.is_ready()
        assert runtime.deliver(origin, event(2)) is not None


def test_a_twin_is_refused_inside_a_coroutine() -> None:
    outcomes: dict[str, object] = {}

    class Nosy(MeshDaemon):
        async def process(self, event: CausalEvent) -> None:
            await asyncio.sleep(0)
            for name in (
                "deliver_async",
                "deliver_many_async",
                "send_async",
                "send_many_async",
                "spawn_async",
                "stop_async",
                "snapshot_async",
                "newest_snapshot_async",
                "export_chain_async",
                "with_daemon_async",
                "control_async",
                "shutdown_async",
            ):
                arguments: dict[str, tuple[object, ...]] = {
                    "deliver_async": (origin, event),
                    "deliver_many_async": (origin, [event]),
                    "send_async": (origin, b""),
                    "send_many_async": (origin, [b""]),
                    "spawn_async": ("echo", Identity.generate()),
                    "export_chain_async": (origin, "never-written"),
                    "with_daemon_async": (origin, MeshDaemon, repr),
                    "control_async": (origin, Resume()),
                    "shutdown_async": (),
                }
                try:
                    outcomes[name] = await getattr(runtime, name)(*arguments.get(name, (origin,)))
                except Exception as error:
                    outcomes[name] = type(error)

    with node(echo=Echo) as runtime:
        origin = spawned(runtime, Nosy())
        runtime.deliver(origin, event(1))

    assert len(outcomes) == 12
    assert set(outcomes.values()) == {ReentrantCallError}, outcomes


def test_reading_is_allowed_inside_user_code() -> None:
    seen: list[object] = []

    def body(event: CausalEvent) -> None:
        handle = runtime.find(origin)
        assert handle is not None
        registry = runtime.daemon_registry()
        seen.extend(
            [
                runtime.is_ready(),
                runtime.daemon_count(),
                handle.stats.events_processed,
                registry.stats(origin).errors,
                registry.count(),
                registry.contains(origin),
                [found.id for found in registry.daemons()] == [origin],
                runtime.mesh().node_id == mesh.node_id,
                runtime.factory_registry().kinds(),
            ]
        )

    with node() as runtime:
        mesh = runtime.mesh()
        origin = spawned(runtime, Does(body))
        runtime.deliver(origin, event(1))

    assert seen == [True, 1, 0, 0, 1, True, True, True, frozenset()]


def test_what_is_refused_names_the_call() -> None:
    raised: list[ReentrantCallError] = []

    def body(event: CausalEvent) -> None:
        with pytest.raises(ReentrantCallError) as refused:
            runtime.send(origin, b"")
        raised.append(refused.value)

    with node() as runtime:
        origin = spawned(runtime, Does(body))
        runtime.deliver(origin, event(1))

    assert raised[0].call == "DaemonRuntime.send"


def test_another_thread_is_not_inside_while_a_daemon_is() -> None:
    daemon = Gated()
    with node() as runtime:
        busy, free = spawned(runtime, daemon), spawned(runtime, Echo())
        with daemons.in_thread(lambda: runtime.deliver(busy, event(1, b"block"))):
            assert daemon.entered.wait(daemons.PATIENCE)

            outputs = runtime.deliver(free, event(1, b"free"))

            assert [output.payload for output in outputs] == [b"free"]
            daemon.leave.set()


# ---------------------------------------------------------------- `snapshot` and `restore`


class Saves(MeshDaemon):
    name = "saves"

    def __init__(self, state: object = b"state") -> None:
        self.state = state
        self.restored: list[bytes] = []

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        return [event.payload]

    def snapshot(self) -> bytes:
        if isinstance(self.state, BaseException):
            raise self.state
        return self.state  # type: ignore[return-value]

    def restore(self, state: bytes) -> None:
        if state == b"poison":
            raise ValueError("on purpose")
        self.restored.append(state)


@pytest.mark.parametrize("state", [b"", b"state", bytearray(b"state"), memoryview(b"state")])
def test_a_state_is_bytes_in_any_form(state: bytes) -> None:
    snapshot = DaemonHost(Saves(state), Identity.generate()).take_snapshot()

    assert snapshot is not None
    assert snapshot.state == bytes(state)
    assert type(snapshot.state) is bytes


@pytest.mark.parametrize("state", [None, "text", 7, [b"state"], object()])
def test_a_snapshot_that_is_not_bytes_is_an_error(state: object) -> None:
    kept = DaemonHost(Saves(state), Identity.generate())

    with pytest.raises(SnapshotFailed) as failed:
        kept.take_snapshot()

    assert failed.value.kind == "wrong_type"
    assert (kept.stats.snapshots_taken, kept.stats.errors) == (0, 1)
    assert kept.deliver(event(1, b"on"))[0].payload == b"on"


def test_a_snapshot_that_raises_is_an_error_with_its_cause() -> None:
    error = OSError("disk full")
    with node() as runtime:
        origin = spawned(runtime, Saves(error))

        with pytest.raises(SnapshotFailed) as failed:
            runtime.snapshot(origin)

        assert failed.value.kind == "raised"
        assert failed.value.__cause__ is error
        assert runtime.newest_snapshot(origin) is None
        assert runtime.send(origin, b"on").processed == 1


def test_a_restore_that_raises_starts_nothing() -> None:
    identity = Identity.generate()
    snapshot = DaemonHost(Saves(b"poison"), identity).take_snapshot()
    assert snapshot is not None
    with node(saves=Saves) as runtime:
        with pytest.raises(RestoreFailed) as failed:
            runtime.spawn_from_snapshot("saves", identity, snapshot)

        assert failed.value.kind == "raised"
        assert isinstance(failed.value.__cause__, ValueError)
        assert runtime.daemon_count() == 0
        assert runtime.spawn("saves", identity).stats.events_processed == 0


class Old(Saves):
    name = "grown"


class Grown(Saves):
    name = "grown"
    schema = 3

    def upgrade(self, state: bytes, schema: int) -> bytes:
        if state == b"unknown":
            raise LookupError("on purpose")
        if state == b"wrong":
            return "text"  # type: ignore[return-value]
        return state + b"+%d" % schema


def test_an_older_state_is_upgraded_before_it_is_restored() -> None:
    identity = Identity.generate()
    old = DaemonHost(Old(b"old"), identity).take_snapshot()
    assert old is not None
    daemon = Grown()

    DaemonHost.from_snapshot(daemon, identity, old)

    assert daemon.restored == [b"old+1"]


def test_a_state_of_the_same_schema_is_not_upgraded() -> None:
    identity = Identity.generate()
    own = DaemonHost(Grown(b"own"), identity).take_snapshot()
    assert own is not None
    assert own.schema == 3
    daemon = Grown()

    DaemonHost.from_snapshot(daemon, identity, own)

    assert daemon.restored == [b"own"]


@pytest.mark.parametrize(("state", "cause"), [(b"unknown", LookupError), (b"wrong", TypeError)])
def test_an_upgrade_that_fails_starts_nothing(state: bytes, cause: type[Exception]) -> None:
    identity = Identity.generate()
    old = DaemonHost(Old(state), identity).take_snapshot()
    assert old is not None
    daemon = Grown()

    with pytest.raises(RestoreFailed) as failed:
        DaemonHost.from_snapshot(daemon, identity, old)

    assert isinstance(failed.value.__cause__, cause)
    assert daemon.restored == []


def test_a_newer_state_is_refused_before_user_code_sees_it() -> None:
    identity = Identity.generate()
    new = DaemonHost(Grown(b"new"), identity).take_snapshot()
    assert new is not None
    daemon = Old()

    with pytest.raises(RestoreFailed) as failed:
        DaemonHost.from_snapshot(daemon, identity, new)

    assert failed.value.kind == "newer_schema"
    assert daemon.restored == []


# ---------------------------------------------------------------- health, load, controls


class Reports(MeshDaemon):
    name = "reports"

    def __init__(self) -> None:
        self.answer: object = Healthy()
        self.load: object = 0.0
        self.controls: list[DaemonControl] = []

    def process(self, event: CausalEvent) -> None: ...

    def health(self) -> DaemonHealth:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]

    def saturation(self) -> float:
        if isinstance(self.load, Exception):
            raise self.load
        return self.load  # type: ignore[return-value]

    def on_control(self, control: DaemonControl) -> None:
        if control == BackpressureOff():
            raise ValueError("on purpose")
        self.controls.append(control)
        return 7 if control == Resume() else None  # type: ignore[return-value]


def test_health_and_load_are_asked_and_told_when_they_change() -> None:
    daemon = Reports()
    with node() as runtime:
        registry = runtime.daemon_registry()
        witness = witnessed(registry)
        spawned(runtime, daemon)

        registry.poll()
        daemon.answer, daemon.load = Degraded("tired"), 0.5
        registry.poll()
        daemon.load = 0.51
        registry.poll()
        daemon.answer, daemon.load = Unhealthy("down"), 7
        registry.poll()

        assert witness.signals(5) == [
            Registered(),
            HealthChanged(Degraded("tired")),
            SaturationChanged(0.5),
            HealthChanged(Unhealthy("down")),
            SaturationChanged(1.0),
        ]


def test_a_runtime_asks_on_its_own() -> None:
    daemon = Reports()
    daemon.answer = Degraded("tired")
    with DaemonRuntime(Mesh.local(), poll_interval=timedelta(milliseconds=1)) as runtime:
        runtime.start()
        witness = witnessed(runtime.daemon_registry())
        spawned(runtime, daemon)

        assert witness.signals(2) == [Registered(), HealthChanged(Degraded("tired"))]


@pytest.mark.parametrize("answer", [None, "fine", True, Healthy, ValueError("on purpose")])
def test_a_wrong_health_counts_as_unhealthy(answer: object) -> None:
    daemon = Reports()
    with node() as runtime:
        registry = runtime.daemon_registry()
        witness = witnessed(registry)
        origin = spawned(runtime, daemon)
        daemon.answer = answer

        registry.poll()
        registry.poll()

        signal = witness.signals(2)[1]
        assert isinstance(signal, HealthChanged)
        assert isinstance(signal.health, Unhealthy)
        assert signal.health.reason
        assert runtime.deliver(origin, event(1)) == []


@pytest.mark.parametrize("load", [None, "0.5", float("nan"), True, ValueError("on purpose")])
def test_a_wrong_load_counts_as_unhealthy(load: object) -> None:
    daemon = Reports()
    with node() as runtime:
        registry = runtime.daemon_registry()
        witness = witnessed(registry)
        spawned(runtime, daemon)
        daemon.load = load

        registry.poll()

        signal = witness.signals(2)[1]
        assert isinstance(signal, HealthChanged)
        assert isinstance(signal.health, Unhealthy)


def test_controls_reach_the_daemon_between_two_events() -> None:
    daemon = Reports()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        runtime.control(origin, BackpressureOn(0.5))
        runtime.daemon_registry().control(origin, BackpressureOn(1.0))

        assert daemon.controls == [BackpressureOn(0.5), BackpressureOn(1.0)]


def test_stop_and_shutdown_tell_the_daemon_first() -> None:
    first, second = Reports(), Reports()
    with node() as runtime:
        runtime.stop(spawned(runtime, first))
        spawned(runtime, second)

    assert [type(control) for control in first.controls + second.controls] == [Shutdown, Shutdown]


@pytest.mark.parametrize(("control", "kind"), [(BackpressureOff(), "raised"), (Resume(), "wrong_type")])
def test_a_control_that_fails_is_an_error_and_the_daemon_goes_on(control: DaemonControl, kind: str) -> None:
    with node() as runtime:
        witness = witnessed(runtime.daemon_registry())
        origin = spawned(runtime, Reports())

        with pytest.raises(CallbackFailed) as failed:
            runtime.control(origin, control)

        assert (failed.value.kind, failed.value.callback) == (kind, "on_control")
        assert isinstance(failed.value.__cause__, ValueError) == (kind == "raised")
        assert isinstance(witness.signals(2)[1], Crashed)
        assert runtime.deliver(origin, event(1)) == []


def test_a_control_may_be_a_coroutine() -> None:
    seen: list[DaemonControl] = []

    class Takes(MeshDaemon):
        def process(self, event: CausalEvent) -> None: ...

        async def on_control(self, control: DaemonControl) -> None:
            await asyncio.sleep(0)
            seen.append(control)
            if control == BackpressureOff():
                raise ValueError("on purpose")

    with node() as runtime:
        origin = spawned(runtime, Takes())
        runtime.control(origin, Resume())
        with pytest.raises(CallbackFailed):
            runtime.control(origin, BackpressureOff())

        assert seen == [Resume(), BackpressureOff()]


def test_a_control_of_no_daemon_is_an_error() -> None:
    with node() as runtime, pytest.raises(DaemonNotFound):
        runtime.control(7, Resume())


def test_a_daemon_without_on_control_takes_none() -> None:
    with node() as runtime:
        origin = spawned(runtime, Echo())

        runtime.control(origin, Resume())

        handle = runtime.find(origin)
        assert handle is not None
        assert handle.stats.errors == 0


def test_a_drain_carries_what_is_left_of_its_grace() -> None:
    daemon = Reports()
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    with node() as runtime:
        runtime.control(spawned(runtime, daemon), DrainStart(timedelta(seconds=60), deadline))

        (control,) = daemon.controls
        assert isinstance(control, DrainStart)
        assert timedelta(seconds=50) < control.grace <= timedelta(seconds=60)
        assert abs(control.deadline - deadline) < timedelta(milliseconds=2)


# ---------------------------------------------------------------- factories


def test_a_factory_that_raises_starts_nothing() -> None:
    error = ConnectionError("no database")

    def factory() -> MeshDaemon:
        raise error

    with node(echo=factory) as runtime:
        with pytest.raises(InvalidDaemon) as failed:
            runtime.spawn("echo", Identity.generate())

        assert failed.value.kind == "factory_failed"
        assert failed.value.__cause__ is error
        assert runtime.daemon_count() == 0


@pytest.mark.parametrize("made", [None, 7, "text", Echo, object()])
def test_a_factory_that_makes_something_else_is_refused(made: object) -> None:
    with node(echo=lambda: made) as runtime:  # type: ignore[arg-type,return-value]
        with pytest.raises(InvalidDaemon) as failed:
            runtime.spawn("echo", Identity.generate())

        assert failed.value.kind == "not_a_mesh_daemon"
        assert runtime.daemon_count() == 0


@pytest.mark.parametrize("factory", [None, 7, "text", Echo()])
def test_a_factory_must_be_callable(factory: object) -> None:
    with node() as runtime, pytest.raises(TypeError):
        runtime.register_factory("echo", factory)  # type: ignore[arg-type]


def test_a_factory_may_exit() -> None:
    def factory() -> MeshDaemon:
        raise SystemExit(3)

    with node(echo=factory) as runtime:
        with pytest.raises(SystemExit):
            runtime.spawn("echo", Identity.generate())

        assert runtime.daemon_count() == 0


def test_a_factory_that_fails_after_a_crash_takes_the_daemon_out_of_service() -> None:
    fails: list[bool] = []

    def factory() -> MeshDaemon:
        if fails:
            raise ConnectionError("no database")
        return Counter()

    with node(counter=factory) as runtime:
        handle = runtime.spawn("counter", Identity.generate(), DaemonHostConfig(on_error="restore"))
        runtime.send(handle.origin_hash, struct.pack("<q", 1))
        fails.append(True)

        with pytest.raises(ProcessFailed, match="no database"):
            runtime.deliver(handle.origin_hash, numbered(1, 0))
        with pytest.raises(RestoreFailed) as refused:
            runtime.deliver(handle.origin_hash, numbered(2))

        assert refused.value.kind == "failed"
        runtime.stop(handle.origin_hash)
        assert runtime.daemon_count() == 0
