"""A behaviour loop from its start: options, accessors, where events go in and where snapshots come out."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from nacl.signing import SigningKey

from daemons import Echo, node
from loops import CONFIG, INGEST, NEVER, TICK, TIMEOUT, WANTED, Calls, Sink, command, seen
from meshos import DaemonIntent, Identity, Mesh, MeshOsConfig, MeshOsRuntime, MeshOsRuntimeBuilder
from meshos.audit import (
    BufferingActionAppender,
    BufferingAdminAuditAppender,
    BufferingFailureAppender,
    BufferingLogAppender,
)
from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHost, DaemonRegistry
from meshos.dispatch import ActionDispatcher, ComputeDispatcher, DispatchError, LoggingDispatcher, MeshOsAction
from meshos.errors import (
    ConfigError,
    DaemonNotFound,
    InvalidArgument,
    LoopClosed,
    NoVerifier,
)
from meshos.events import (
    Cordon,
    EnterMaintenance,
    LogLevel,
    LogLine,
    MeshOsEvent,
    PlacementIntent,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
)
from meshos.migration import MigrationAborter, MigrationPhase, MigrationSnapshot, MigrationSnapshotSource
from meshos.operator import AdminVerifier, OperatorRegistry, Role, Verdict
from meshos.probes import HealthProbe, NodeHealth, ProbeRegistry
from meshos.recovery import RecoveryRegistry
from meshos.scheduler import PlacementScorer, SchedulerRegistry
from meshos.status import Active
from records import NOON


class Beats(HealthProbe):
    def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
        return [(2, NodeHealth.DEGRADED)]


class Prefers3(PlacementScorer):
    def score(self, chain: int, node: int, /) -> float | None:
        return 0.1

    def best_alternative(self, chain: int, exclude: Collection[int], /) -> tuple[int, float] | None:
        return None if 3 in exclude else (3, 1.0)


class Moves(MigrationSnapshotSource):
    def list(self) -> Sequence[MigrationSnapshot]:
        return [
            MigrationSnapshot(
                daemon_origin=42,
                phase=MigrationPhase.TRANSFER,
                started_at=NOON,
                phase_entered_at=NOON,
                source_node=1,
                target_node=2,
                snapshot_bytes=None,
                bytes_moved=0,
                retries=0,
                buffered_events=None,
            )
        ]


class Ends(MigrationAborter):
    def abort(self, migration: int, /) -> None: ...


LEADS: list[MeshOsEvent] = [
    PlacementIntent(7, 1),
    ReplicaUpdate(7, 2, ReplicaChange.ADDED),
    ReplicaLeaderUpdate(7, 1, 1),
]


# ---------------------------------------------------------------- options


class Option(NamedTuple):
    """One option of `start`: what is given, and how its effect shows."""

    method: str
    make: Callable[[], object]
    shows: Callable[[MeshOsRuntime, object], object]


def probes() -> ProbeRegistry:
    registry = ProbeRegistry()
    registry.add_health_probe(Beats())
    return registry


def scorers() -> SchedulerRegistry:
    registry = SchedulerRegistry()
    registry.install(Prefers3())
    return registry


def daemons() -> DaemonRegistry:
    registry = DaemonRegistry()
    registry.register(DaemonHost(Echo(), Identity.from_seed(bytes(32))))
    return registry


def handlers() -> RecoveryRegistry:
    registry = RecoveryRegistry()
    registry.register(lambda: [3], name="group")
    return registry


def verifier() -> AdminVerifier:
    operators = OperatorRegistry()
    operators.add(SigningKey(bytes([1]) * 32).verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    return AdminVerifier(operators, cluster_id=b"test", ice_threshold=1)


def placed(runtime: MeshOsRuntime, _: object) -> None:
    runtime.handle().publish_many(LEADS)
    seen(runtime, lambda s: any(action.kind == "request_placement" for action in s.recently_emitted))


def drains(runtime: MeshOsRuntime, sink: object) -> None:
    assert isinstance(sink, Sink)
    runtime.handle().publish(command(EnterMaintenance(1)))
    sink.seen.first(1)


def fails(runtime: MeshOsRuntime, appender: object) -> None:
    runtime.handle().publish(WANTED)
    kept(runtime, appender)


def audited(runtime: MeshOsRuntime, appender: object) -> None:
    runtime.handle().publish(command(Cordon(2)))
    kept(runtime, appender)


def logged(runtime: MeshOsRuntime, appender: object) -> None:
    runtime.handle().publish(LogLine(LogLevel.INFO, "hello"))
    kept(runtime, appender)


def kept(runtime: MeshOsRuntime, appender: object) -> None:
    """Appenders have kept everything when the shutdown returns."""
    assert isinstance(
        appender,
        BufferingAdminAuditAppender | BufferingLogAppender | BufferingFailureAppender | BufferingActionAppender,
    )
    seen(runtime, lambda s: s.failure_head_seq + s.audit_head_seq + s.log_head_seq > 0)
    runtime.shutdown()
    assert len(appender.captured()) >= 1


OPTIONS = {
    "probes": Option(
        "with_probe_registry",
        probes,
        lambda runtime, _: seen(runtime, lambda s: 2 in s.peers and s.peers[2].health == "degraded"),
    ),
    "scheduler": Option("with_scheduler_registry", scorers, placed),
    "daemon_registry": Option(
        "with_daemon_registry",
        daemons,
        lambda runtime, _: seen(runtime, lambda s: [d.ref.name for d in s.daemons.values()] == ["echo"]),
    ),
    "recovery": Option(
        "with_recovery_registry", handlers, lambda runtime, _: seen(runtime, lambda s: s.recovery[0].recovered > 0)
    ),
    "control_sink": Option("with_control_sink", Sink, drains),
    "admin_verifier": Option(
        "with_admin_verifier", verifier, lambda runtime, _: seen(runtime, lambda s: s.authority == "verified")
    ),
    "admin_audit_appender": Option("with_admin_audit_appender", BufferingAdminAuditAppender, audited),
    "log_appender": Option("with_log_appender", BufferingLogAppender, logged),
    "failure_appender": Option("with_failure_appender", BufferingFailureAppender, fails),
    "action_appender": Option("with_action_appender", BufferingActionAppender, fails),
    "migration_aborter": Option(
        "with_migration_aborter", Ends, lambda runtime, _: seen(runtime, lambda s: "Ends" in s.callbacks)
    ),
    "migration_snapshot_source": Option(
        "with_migration_snapshot_source",
        Moves,
        lambda runtime, _: seen(runtime, lambda s: [move.daemon_origin for move in s.in_flight_migrations] == [42]),
    ),
}


def refusing() -> LoggingDispatcher:
    dispatcher = LoggingDispatcher()
    dispatcher.fail_next(DispatchError.drop("no room"))
    return dispatcher


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_start_has_its_effect(name: str) -> None:
    option = OPTIONS[name]
    given = option.make()
    with MeshOsRuntime.start(CONFIG, refusing(), **{name: given}) as runtime:  # type: ignore[arg-type]
        option.shows(runtime, given)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_method_of_the_builder_has_the_same_effect(name: str) -> None:
    option = OPTIONS[name]
    given = option.make()
    builder = MeshOsRuntimeBuilder(CONFIG, refusing())
    assert getattr(builder, option.method)(given) is builder
    with builder.build_and_start() as runtime:
        option.shows(runtime, given)


def test_no_option_is_without_a_test() -> None:
    parameters = set(inspect.signature(MeshOsRuntime.start).parameters) - {"config", "dispatcher"}
    assert set(OPTIONS) == parameters
    methods = {name for name in vars(MeshOsRuntimeBuilder) if name.startswith("with_")}
    assert {option.method for option in OPTIONS.values()} == methods


def test_without_options_there_is_a_registry_of_each_kind() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        assert runtime.probe_registry().probe_counts().locality == 0
        assert runtime.recovery_registry().is_empty()
        assert runtime.scheduler_registry().current() is None
        assert runtime.daemon_registry().count() == 0
        assert runtime.snapshot().in_flight_migrations == ()


def test_a_builder_starts_once() -> None:
    builder = MeshOsRuntimeBuilder(CONFIG, Calls())
    with builder.build_and_start(), pytest.raises(LoopClosed):
        builder.build_and_start()


def test_a_builder_whose_start_was_refused_may_be_mended() -> None:
    class Of9(Calls):
        node: int | None = 9

        def node_id(self) -> int | None:
            return self.node

    dispatcher = Of9()
    builder = MeshOsRuntimeBuilder(CONFIG, dispatcher)
    with pytest.raises(ConfigError) as caught:
        builder.build_and_start()
    assert caught.value.field == "this_node"
    dispatcher.node = None
    with builder.build_and_start() as runtime:
        assert runtime.this_node() == 1


def test_the_node_is_given_or_that_of_the_dispatcher() -> None:
    class Of9(Calls):
        def node_id(self) -> int:
            return 9

    unnamed = MeshOsConfig(tick_interval=TICK)
    with pytest.raises(ConfigError) as caught:
        MeshOsRuntime.start(unnamed, Calls())
    assert caught.value.field == "this_node"
    with pytest.raises(ConfigError):
        MeshOsRuntime.start(CONFIG, Of9())
    with MeshOsRuntime.start(unnamed, Of9()) as runtime:
        assert (runtime.this_node(), runtime.snapshot().this_node) == (9, 9)


def test_a_dispatcher_may_name_the_registry_that_is_watched() -> None:
    registry = daemons()

    class On(Calls):
        def daemon_registry(self) -> DaemonRegistry:
            return registry

    with MeshOsRuntime.start(CONFIG, On()) as runtime:
        assert runtime.daemon_registry() is registry
        assert len(runtime.snapshot().daemons) == 1
    other = DaemonRegistry()
    with MeshOsRuntime.start(CONFIG, On(), daemon_registry=other) as runtime:
        assert runtime.daemon_registry() is other
        assert len(runtime.snapshot().daemons) == 0


def test_a_compute_dispatcher_gives_node_and_registry() -> None:
    with node(echo=Echo) as daemons:
        origin = daemons.spawn("echo", Identity.generate()).origin_hash
        with MeshOsRuntime.start(MeshOsConfig(tick_interval=TICK), ComputeDispatcher(daemons)) as runtime:
            assert runtime.this_node() == daemons.mesh().node_id
            assert runtime.daemon_registry() is daemons.daemon_registry()
            assert runtime.snapshot().daemons[origin].lifecycle == "running"


def test_a_start_that_is_refused_leaves_nothing_behind() -> None:
    registry = daemons()
    before = threading.active_count()
    wrong: list[dict[str, Any]] = [
        {"probes": 7},
        {"control_sink": 7},
        {"log_appender": object()},
        {"migration_aborter": Moves()},
    ]
    for options in wrong:
        with pytest.raises(TypeError):
            MeshOsRuntime.start(CONFIG, Calls(), daemon_registry=registry, **options)

    assert threading.active_count() == before


def test_a_runtime_is_made_by_starting_it() -> None:
    with pytest.raises(TypeError, match=r"MeshOsRuntime\.start"):
        MeshOsRuntime()


# ---------------------------------------------------------------- accessors


def test_accessors_return_the_same_object_each_time() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        for accessor in (
            runtime.handle,
            runtime.snapshot_reader,
            runtime.probe_registry,
            runtime.scheduler_registry,
            runtime.daemon_registry,
            runtime.recovery_registry,
        ):
            assert accessor() is accessor()
        assert runtime.handle_clone() is runtime.handle()


def test_what_was_given_is_what_is_returned() -> None:
    given = probes(), scorers(), daemons(), handlers()
    with MeshOsRuntime.start(
        CONFIG, Calls(), probes=given[0], scheduler=given[1], daemon_registry=given[2], recovery=given[3]
    ) as runtime:
        assert runtime.probe_registry() is given[0]
        assert runtime.scheduler_registry() is given[1]
        assert runtime.daemon_registry() is given[2]
        assert runtime.recovery_registry() is given[3]


def test_probes_may_come_and_go_while_it_runs() -> None:
    class Pings(Beats):
        def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            return [(4, TICK)]

        def inventory_samples(self) -> Iterable[tuple[int, object]]:
            return []

    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        counts = runtime.probe_registry().probe_counts
        runtime.add_locality_probe(Pings())  # type: ignore[arg-type]
        runtime.add_health_probe(Pings())
        runtime.add_inventory_probe(Pings())  # type: ignore[arg-type]
        assert (counts().locality, counts().health, counts().inventory) == (1, 1, 1)
        seen(runtime, lambda s: {2, 4} <= set(s.peers))
        runtime.clear_locality_probes()
        assert (counts().locality, counts().health, counts().inventory) == (0, 1, 1)
        runtime.clear_health_probes()
        runtime.clear_inventory_probes()
        assert (counts().locality, counts().health, counts().inventory) == (0, 0, 0)
        seen(runtime, lambda s: not any(name.startswith("Pings") for name in s.callbacks))


def test_a_scorer_may_be_installed_while_it_runs() -> None:
    first, second = Prefers3(), Prefers3()
    with MeshOsRuntime.start(MeshOsConfig(this_node=1, tick_interval=NEVER), LoggingDispatcher()) as runtime:
        runtime.handle().publish_many(LEADS)
        assert runtime.install_placement_scorer(first) is None
        assert runtime.install_placement_scorer(second) is first
        seen(runtime, lambda s: any(action.kind == "request_placement" for action in s.recently_emitted))


def test_health_says_that_it_lives_and_when_it_looked_last() -> None:
    runtime = MeshOsRuntime.start(CONFIG, Calls())
    with runtime:
        first = runtime.health()
        assert (first.loop_alive, first.executor_alive) == (True, True)
        runtime.set_intent(42, DaemonIntent.STOP)
        assert runtime.health().last_tick_at >= first.last_tick_at
        assert "alive" in repr(runtime)
    assert (runtime.health().loop_alive, runtime.health().executor_alive) == (False, False)
    assert "ended" in repr(runtime)


def test_explain_names_the_rule_and_what_holds_a_daemon() -> None:
    def refuse(_: MeshOsAction) -> None:
        raise DispatchError.drop("no room")

    with MeshOsRuntime.start(CONFIG, Calls(refuse)) as runtime:
        runtime.handle().publish_many([WANTED, *LEADS])
        seen(runtime, lambda s: len(s.recent_failures) > 0)
        daemon, chain = runtime.explain(daemon=42), runtime.explain(chain=7)
        assert (daemon.subject, daemon.rule, daemon.desired) == (INGEST, "start", "run")
        assert "failed" in {reason.kind for reason in daemon.reasons}
        assert chain.subject == 7
        assert "run" in str(daemon)
        with pytest.raises(DaemonNotFound):
            runtime.explain(daemon=1)
        with pytest.raises(InvalidArgument):
            runtime.explain(chain=1)
        for wrong in ({}, {"daemon": 42, "chain": 7}):
            with pytest.raises(TypeError):
                runtime.explain(**wrong)


# ---------------------------------------------------------------- authority


def test_commands_are_refused_without_a_verifier_and_that_is_audited() -> None:
    config = MeshOsConfig(this_node=1, tick_interval=TICK)
    audits = BufferingAdminAuditAppender()
    with MeshOsRuntime.start(config, Calls(), admin_audit_appender=audits) as runtime:
        assert runtime.snapshot().authority == "refused"
        with pytest.raises(NoVerifier) as caught:
            runtime.handle().publish(command(EnterMaintenance(1)))
        assert caught.value.kind == "no_verifier"
        with pytest.raises(NoVerifier):
            runtime.handle().publish_many([command(Cordon(1)), WANTED])
        after = seen(runtime, lambda s: s.audit_head_seq == 2 and 42 in s.daemons)
        assert isinstance(after.local_maintenance, Active)
        records = runtime.audits()
        warnings = [line for line in runtime.logs() if line.level is LogLevel.WARN]
    assert [(record.seq, record.verdict, record.rejected_kind) for record in records] == [
        (1, Verdict.REJECTED, "no_verifier"),
        (2, Verdict.REJECTED, "no_verifier"),
    ]
    assert isinstance(records[0].event, EnterMaintenance)
    assert audits.captured() == records
    assert len(warnings) == 2


def test_an_open_runtime_obeys_and_says_so() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        assert runtime.snapshot().authority == "open"
        runtime.handle().publish(command(EnterMaintenance(1)))
        seen(runtime, lambda s: not isinstance(s.local_maintenance, Active))
        (record,) = runtime.audits()
    assert (record.verdict, record.rejected_kind, record.operator_ids) == (Verdict.UNVERIFIED, None, ())


# ---------------------------------------------------------------- several runtimes, and an event loop


def test_two_runtimes_share_registries() -> None:
    registry = daemons()
    options = {"probes": probes(), "recovery": handlers(), "daemon_registry": registry, "scheduler": scorers()}
    first = MeshOsRuntime.start(CONFIG, LoggingDispatcher(), **options)  # type: ignore[arg-type]
    second = MeshOsRuntime.start(CONFIG, LoggingDispatcher(), **options)  # type: ignore[arg-type]
    with first, second:
        for runtime in (first, second):
            seen(runtime, lambda s: 2 in s.peers and s.peers[2].health == "degraded")
            seen(runtime, lambda s: s.recovery[0].recovered > 0)
            assert len(runtime.snapshot().daemons) == 1
        first.shutdown()
        registry.register(DaemonHost(Echo(), Identity.generate()))
        seen(second, lambda s: len(s.daemons) == 2)
        assert len(first.snapshot().daemons) == 1
        assert first.snapshot().runtime_epoch_id != second.snapshot().runtime_epoch_id


def test_coroutines_of_callbacks_run_on_the_loop_of_the_start() -> None:
    ran: set[str] = set()

    async def main() -> None:
        here = asyncio.get_running_loop()

        def note(name: str) -> None:
            assert asyncio.get_running_loop() is here
            ran.add(name)

        class Probe(HealthProbe):
            async def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
                note("probe")
                return [(2, NodeHealth.HEALTHY)]

        class Asked(ActionDispatcher):
            async def dispatch(self, action: MeshOsAction, /) -> None:
                note("dispatch")

        class Hears(Sink):
            async def emit(self, control: object, /) -> None:  # type: ignore[override]
                note("emit")

        async def recover() -> Sequence[int]:
            note("recover")
            return [1]

        async with MeshOsRuntime.start(CONFIG, Asked(), control_sink=Hears()) as runtime:
            runtime.add_health_probe(Probe())
            runtime.recovery_registry().register(recover)
            await runtime.handle().publish_many_async([WANTED, command(EnterMaintenance(1))])
            await runtime.snapshot_reader().wait_for_async(
                lambda s: 2 in s.peers and any(handler.recovered for handler in s.recovery), timeout=TIMEOUT
            )
            while not {"dispatch", "emit"} <= ran:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert ran == {"probe", "dispatch", "emit", "recover"}


def test_a_config_of_another_mesh_is_refused() -> None:
    with DaemonRuntime(Mesh.local()) as daemons:
        config = MeshOsConfig(this_node=daemons.mesh().node_id ^ 1)
        with pytest.raises(ConfigError) as caught:
            MeshOsRuntime.start(config, ComputeDispatcher(daemons))
        assert caught.value.field == "this_node"
