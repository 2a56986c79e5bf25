"""Read by a type checker and never run: what users write, and what they get back."""

from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, assert_never, assert_type

import meshos
from meshos import (
    BackoffConfig,
    CausalEvent,
    DaemonControl,
    DaemonHandle,
    DaemonHostConfig,
    DaemonIntent,
    DaemonRef,
    DaemonRuntime,
    EntityId,
    Identity,
    MeshDaemon,
    MeshOsConfig,
    MeshOsError,
    Output,
    ProcessFailed,
    Receipt,
    StateSnapshot,
    Store,
    WaitTimeout,
    verify_chain,
)
from meshos.capability import CapabilityFilter, CapabilitySet
from meshos.chain import ChainReport
from meshos.control import BackpressureOff, BackpressureOn, DrainFinish, DrainStart, Resume, Shutdown
from meshos.daemon import DaemonHealth, DaemonLifecycleEvent, DaemonLifecycleObserver, Degraded, Healthy, Unhealthy
from meshos.dispatch import Cause, MeshOsAction, PullReplica, StartDaemon, StopDaemon
from meshos.errors import BrokenLink, InvalidDaemon, RestoreFailed, SendTimeout, StaleSnapshot
from meshos.events import (
    Crashed,
    DaemonIntentUpdate,
    DaemonLifecycle,
    ExitedCleanly,
    HealthChanged,
    MeshOsEvent,
    PassedOver,
    Registered,
    SaturationChanged,
    Started,
    Unregistered,
)
from meshos.probes import NodeHealth, PeerInventory
from meshos.status import (
    Active,
    BackingOff,
    CrashLooping,
    DaemonSnapshot,
    DrainFailed,
    EnteringMaintenance,
    ExitingMaintenance,
    Idle,
    Maintenance,
    MaintenancePhase,
    MeshOsSnapshot,
    Recovery,
    StatusSummary,
)
from meshos.store import Continuous, EntityLog, Forked, LogIndex, Migrated, Span, Unverifiable


class Nothing(MeshDaemon):
    def process(self, event: CausalEvent) -> None: ...


class One(MeshDaemon):
    def process(self, event: CausalEvent) -> bytes:
        return event.payload


class View(MeshDaemon):
    def process(self, event: CausalEvent) -> memoryview:
        return memoryview(event.payload)


class Maybe(MeshDaemon):
    def process(self, event: CausalEvent) -> Output | None:
        return Output(event.payload) if event.payload else None


class Several(MeshDaemon):
    def process(self, event: CausalEvent) -> Iterable[bytes | Output]:
        return [event.payload, Output(event.payload)]


class Yields(MeshDaemon):
    def process(self, event: CausalEvent) -> Iterator[bytes]:
        yield event.payload


class Coroutine(MeshDaemon):
    async def process(self, event: CausalEvent) -> list[bytes]:
        return [event.payload]


class AsyncYields(MeshDaemon):
    async def process(self, event: CausalEvent) -> AsyncIterator[Output]:
        yield Output(event.payload)


class Full(MeshDaemon):
    name = "full"
    schema = 2
    required_capabilities = CapabilitySet(["hardware.gpu"])
    optional_capabilities = CapabilitySet()

    def process(self, event: CausalEvent) -> None: ...

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None: ...

    def upgrade(self, state: bytes, schema: int) -> bytes:
        return state

    def health(self) -> DaemonHealth:
        return Degraded("tired")

    def saturation(self) -> float:
        return 1

    async def on_control(self, control: DaemonControl) -> None:
        match control:
            case Shutdown(grace, _) | DrainStart(grace, _):
                assert_type(grace, timedelta)
            case BackpressureOn(level):
                assert_type(level, float)
            case DrainFinish() | Resume() | BackpressureOff():
                pass
            case _:
                assert_never(control)

    def requirements(self) -> CapabilityFilter:
        return CapabilityFilter(require_gpu=True)


class Watch(DaemonLifecycleObserver):
    def observe(self, event: DaemonLifecycleEvent) -> None:
        match event.signal:
            case Crashed(reason):
                assert_type(reason, str)
            case HealthChanged(health):
                match health:
                    case Healthy():
                        pass
                    case Degraded(reason) | Unhealthy(reason):
                        assert_type(reason, str)
                    case _:
                        assert_never(health)
            case SaturationChanged(saturation):
                assert_type(saturation, float)
            case PassedOver(origin_hash, _, letter):
                assert_type((origin_hash, letter), tuple[int, int])
            case Registered() | Unregistered() | Started() | ExitedCleanly():
                pass
            case _:
                assert_never(event.signal)


def names(daemon: Full) -> None:
    assert_type(Full.name, str)
    assert_type(daemon.name, str)
    assert_type(MeshDaemon.name, str)
    assert_type(daemon.schema, int)
    assert_type(daemon.is_stateful(), bool)
    assert_type(One().health(), DaemonHealth)
    assert_type(One().snapshot(), bytes | bytearray | memoryview | None)
    assert_type(One().on_control(Resume()), Awaitable[None] | None)
    assert_type(meshos.__version__, str)
    assert_type(meshos.errors.NotReady().kind, Literal["not_ready"])


def calls(runtime: DaemonRuntime, identity: Identity, event: CausalEvent) -> None:
    runtime.register_factory("full", Full)
    runtime.register_factory("one", lambda: One())
    handle = runtime.spawn("full", identity, DaemonHostConfig(delivery="at_least_once", on_error="restore"))
    assert_type(handle, DaemonHandle)
    assert_type(handle.origin_hash, int)
    assert_type(handle.entity_id, EntityId)
    assert_type(runtime.deliver(handle.origin_hash, event), list[CausalEvent])
    assert_type(runtime.deliver_many(handle.origin_hash, [event]), list[list[CausalEvent]])
    assert_type(runtime.send(handle.origin_hash, b"hello"), Receipt)
    assert_type(runtime.send(handle.origin_hash, event, timeout=timedelta(seconds=1)), Receipt)
    assert_type(runtime.snapshot(handle.origin_hash), StateSnapshot | None)
    assert_type(runtime.with_daemon(handle.origin_hash, Full, lambda daemon: daemon.schema), int)
    assert_type(runtime.export_chain(handle.origin_hash, Path("full.chain")), ChainReport)
    assert_type(verify_chain("full.chain", identity.entity_id), ChainReport)


def logs(store: Store, entity_id: EntityId) -> str:
    index = store.logs()
    assert_type(index, LogIndex)
    assert_type(list(index), list[EntityId])
    log = index.get(entity_id)
    assert_type(log, EntityLog | None)
    if log is None:
        return "nothing"
    assert_type(list(log.range(1, 2)), list[CausalEvent])
    assert_type(log.prune(2), int)
    assert_type(log.spans, tuple[Span, ...])
    found = log.assess()
    match found:
        case Continuous() | Migrated():
            assert_type(found.anchor, Literal["genesis", "fork", "certificate", "checkpoint"])
        case Forked():
            assert_type(found.expected, bytes)
        case Unverifiable():
            assert_type(found.gap_start, int)
        case other:
            assert_never(other)
    return found.kind


async def twins(runtime: DaemonRuntime, identity: Identity, event: CausalEvent) -> None:
    handle = await runtime.spawn_async("full", identity)
    assert_type(handle, DaemonHandle)
    assert_type(await runtime.deliver_async(handle.origin_hash, event), list[CausalEvent])
    assert_type(await runtime.send_async(handle.origin_hash, event), Receipt)
    assert_type(await runtime.snapshot_async(handle.origin_hash), StateSnapshot | None)


def errors(runtime: DaemonRuntime, event: CausalEvent) -> None:
    try:
        runtime.send(1, event)
    except ProcessFailed as error:
        assert_type(error.kind, Literal["raised", "wrong_type", "sequence_exhausted", "passed_over"])
        assert_type(error.outputs, tuple[tuple[CausalEvent, ...], ...])
    except SendTimeout as error:
        assert_type(error.event, CausalEvent)
        assert_type(error.kind, Literal["send_timeout"])
    except InvalidDaemon as error:
        assert_type(error.daemon_class, str)
    except RestoreFailed as error:
        if error.kind == "newer_schema":
            assert_type(error.kind, Literal["newer_schema"])
    except StaleSnapshot as error:
        assert_type(error.counted, Literal["outputs", "inputs"])
    except BrokenLink as error:
        assert_type((error.origin, error.sequence, error.expected, error.found), tuple[int, int, int, int])
    except WaitTimeout as error:
        assert_type(error.timeout, timedelta)
    except MeshOsError as error:
        assert_type(error.kind, str)
        assert_type(error.retryable, bool)


def published() -> list[MeshOsEvent]:
    daemon = DaemonRef(42, "ingest")
    return [
        DaemonIntentUpdate(daemon, DaemonIntent.RUN),
        DaemonIntentUpdate(daemon, intent=DaemonIntent.STOP, node=7),
        DaemonLifecycle(daemon, Started()),
        DaemonLifecycle(daemon, Crashed("gone", at=datetime.now(UTC))),
    ]


def decided(action: MeshOsAction) -> Cause:
    match action:
        case StartDaemon(daemon) | StopDaemon(daemon, _, _):
            assert_type(daemon, DaemonRef)
        case PullReplica(chain, source):
            assert_type((chain, source), tuple[int, int])
        case _:
            assert_type(
                action.kind,
                Literal[
                    "apply_backoff",
                    "drop_replica",
                    "request_placement",
                    "request_eviction",
                    "mark_avoid",
                    "commit_maintenance_transition",
                ],
            )
    return action.cause


def shown(snapshot: MeshOsSnapshot) -> StatusSummary:
    assert_type(snapshot.authority, Literal["verified", "refused", "open"])
    assert_type(snapshot.daemons, Mapping[int, DaemonSnapshot])
    daemon = snapshot.daemons[42]
    match daemon.restart_state:
        case Idle():
            pass
        case BackingOff(until) | CrashLooping(until):
            assert_type(until, datetime)
        case _:
            assert_never(daemon.restart_state)
    match snapshot.local_maintenance:
        case Active():
            assert_type(snapshot.local_maintenance.phase, Literal[MaintenancePhase.ACTIVE])
        case EnteringMaintenance(since, _) | Maintenance(since) | ExitingMaintenance(since) | Recovery(since):
            assert_type(since, datetime)
        case DrainFailed(_, reason):
            assert_type(reason, str)
        case _:
            assert_never(snapshot.local_maintenance)
    assert_type(snapshot.peers[3].health, NodeHealth | None)
    assert_type(daemon.last_crash.message if daemon.last_crash else "", str)
    return snapshot.summary()


def options() -> MeshOsConfig:
    PeerInventory(cpu_load_1m=0.5, capability_set=frozenset({"gpu"}))
    backoff = BackoffConfig(initial=timedelta(seconds=1), factor=2)
    return MeshOsConfig(this_node=1, authority="open", audit="required", backoff=backoff)
