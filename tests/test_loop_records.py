"""Records of the behaviour loop: what every one of them keeps, from one table."""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import NamedTuple, TypeAlias, cast

import pytest
from nacl.signing import SigningKey

from meshos import audit, dispatch, events, migration, operator, probes, recovery, runtime, scheduler, status
from meshos.capability import CapabilitySet
from meshos.daemon import DaemonRef, Degraded, Healthy
from meshos.errors import InvalidArgument
from meshos.events import DaemonIntent, LocalReplicaIntent, LogLevel, ReplicaChange
from meshos.migration import MigrationPhase
from meshos.operator import Role, Verdict
from meshos.probes import NodeHealth
from meshos.status import Lifecycle, MaintenancePhase
from records import (
    BAD_BOOLS,
    BAD_BYTES_32,
    BAD_INTS,
    BAD_MOMENTS,
    BAD_SHARES,
    BAD_SIGNATURES,
    BAD_SPANS,
    BAD_TEXTS,
    NOON,
    Cases,
    check_record,
    check_refused,
    evaluated,
    twins,
)

NAN, INFINITY = float("nan"), float("inf")
SPAN = timedelta(seconds=30, microseconds=1)


class Field(NamedTuple):
    """A field of a record: a good value, another one, and what it refuses."""

    good: object
    other: object
    bad: Cases
    default: object = inspect.Parameter.empty
    compared: bool = True

    def by_default(self, default: object) -> "Field":
        return self._replace(default=default)

    @property
    def optional(self) -> "Field":
        """The same field, which may also be `None`."""
        return self._replace(other=None, bad=[(value, error) for value, error in self.bad if value is not None])


def instance(good: object, other: object) -> Field:
    """A field that takes the records of some classes and nothing else."""
    return Field(good, other, [(value, TypeError) for value in (None, 7, "running", type(good), {}, object())])


def word(good: StrEnum, other: StrEnum) -> Field:
    """A field that takes the members of one enum, and not even their texts."""
    strangers = (None, str(good), good.name, 0, type(good), Enum("Other", {"A": good.value}).A)  # type: ignore[attr-defined]
    return Field(good, other, [(value, TypeError) for value in strangers])


def literal(good: str, other: str) -> Field:
    """A field that takes a few plain texts."""
    wrong: Cases = [(value, TypeError) for value in (None, 7, b"text", True)]
    return Field(good, other, [*wrong, *((value, InvalidArgument) for value in ("", good.upper(), "\ud800"))])


def tuple_of(field: Field) -> Field:
    bad: Cases = [
        *((value, TypeError) for value in (None, 7, [field.good], {field.good: 1}, "text", b"bytes", iter(()))),
        *(((field.good, value), error) for value, error in field.bad),
    ]
    return Field((field.good, field.other), (), bad)


INT = Field(12, 2**64 - 1, BAD_INTS)
COUNT = Field(12, 2**32 - 1, [*BAD_INTS, (2**32, InvalidArgument)])
TEXT = Field("disk full", "naïve \N{SKULL}", BAD_TEXTS)
MOMENT = Field(NOON, NOON + timedelta(microseconds=1), BAD_MOMENTS)
SPANNED = Field(SPAN, timedelta(), BAD_SPANS)
SHARE = Field(0.75, 1.0, BAD_SHARES)
FINITE = Field(
    -0.5,
    7.25,
    [
        *((value, TypeError) for value in ("0.5", None, True, b"", [0.5])),
        *((value, InvalidArgument) for value in (NAN, INFINITY, -INFINITY, 10**400)),
    ],
)
WEIGHT = FINITE._replace(bad=[(value, error) for value, error in FINITE.bad if not isinstance(value, float)])
BOOL = Field(True, False, BAD_BOOLS)
DIGEST = Field(bytes(range(32)), bytes(32), BAD_BYTES_32)
ENVELOPE_ID = Field(
    bytes(range(16)),
    bytes(16),
    [
        *((value, TypeError) for value in (None, "x" * 16, 16, [0] * 16, 1.5)),
        *((value, InvalidArgument) for value in (b"", bytes(15), bytes(17), bytearray(32))),
    ],
)
ENVELOPE = ENVELOPE_ID.optional
BETWEEN = Field(
    (NOON, NOON + SPAN),
    (NOON, NOON),
    [
        *((value, TypeError) for value in (None, NOON, (), (NOON,), [NOON, NOON], (NOON, None), (NOON, NOON, NOON))),
        *((value, InvalidArgument) for value in ((NOON + SPAN, NOON), (NOON.replace(tzinfo=None), NOON))),
    ],
)
TAGS = Field(
    frozenset({"gpu", "nvme"}),
    frozenset(),
    [
        *((value, TypeError) for value in (None, {"gpu"}, ["gpu"], "gpu", frozenset({1}), frozenset({"gpu", None}))),
        (frozenset({"\ud800"}), InvalidArgument),
    ],
)
AT = MOMENT.optional.by_default(None)
DAEMON = instance(DaemonRef(7, "counter"), DaemonRef(8))
ACTIVE, DRAINING = status.Active(), status.EnteringMaintenance(NOON, NOON + SPAN, 3, 4)
STATE = instance(DRAINING, ACTIVE)
HEALTH = instance(Degraded("slow"), Healthy())
NODE_HEALTH = word(NodeHealth.DEGRADED, NodeHealth.HEALTHY)
SIGNAL = instance(events.Crashed("KeyError: 'a'", NOON), events.Started())

ORDER = instance(events.DropReplicas(7, (1, 2)), operator.FreezeCluster(SPAN))
WARNING = instance(
    operator.BlastWarning("avoid_flush_recovers_peer", (7,)), operator.BlastWarning("thaw_has_no_freeze_to_cancel")
)
WHOLE_MS = Field(timedelta(seconds=30), timedelta(), [*BAD_SPANS, (SPAN, InvalidArgument)])
CRASH = status.CrashRecord(exception="KeyError", message="'a'", at=NOON, event_origin=7, event_sequence=None)
SOURCE = audit.FailureSource(part="action", name="start_daemon", target=7, action_id=1)
ORDERED = audit.MaintenanceOrder(node=1, since=NOON, deadline=NOON, returns=True)
OTHER_ORDERED = audit.MaintenanceOrder(node=2, since=NOON, deadline=None, returns=False)
FORCED = audit.ForcedOrder(chain=1, order="evict", node=2, until=NOON, envelope_id=bytes(16))
OTHER_FORCED = audit.ForcedOrder(chain=1, order="cutover", node=3, until=NOON, envelope_id=None)
COUNTERS = (
    "dispatched",
    "failed",
    "deferred",
    "gated",
    "dispatch_retries",
    "superseded",
    "cluster_backpressure_asserts",
    "cluster_backpressure_releases",
    "chain_append_failures",
)
EXECUTED = runtime.ExecutorStatsSnapshot(**dict.fromkeys(COUNTERS, 7))
PEERS = status.PeerCounts(healthy=1, degraded=2, unreachable=3, unknown=4)
DAEMONS = status.DaemonCounts(running=1, starting=2, stopping=3, stopped=4, backing_off=5, crash_looping=6)
PENDING = BOOL.by_default(False)
INVENTORY = {
    "cpu_load_1m": FINITE.optional,
    "mem_used_bytes": INT.optional,
    "mem_total_bytes": INT.optional,
    "disk_used_bytes": INT.optional,
    "disk_total_bytes": INT.optional,
    "saturation_trend": SHARE.optional,
    "capability_set": TAGS.optional,
    "software_version": TEXT.optional,
    "forked_from": INT.optional,
}

Fields: TypeAlias = Mapping[str, Field]
Class: TypeAlias = Callable[..., object]
BY_POSITION: dict[Class, Fields] = {
    events.Registered: {},
    events.Unregistered: {},
    events.Started: {"at": AT},
    events.ExitedCleanly: {"at": AT},
    events.Crashed: {"reason": TEXT, "at": AT},
    events.PassedOver: {"origin_hash": INT, "sequence": INT, "letter": INT, "attempts": COUNT},
    events.HealthChanged: {"health": HEALTH, "at": AT},
    events.SaturationChanged: {"saturation": SHARE, "at": AT},
    events.DaemonLifecycle: {"daemon": DAEMON, "signal": SIGNAL},
    events.DaemonIntentUpdate: {
        "daemon": DAEMON,
        "intent": word(DaemonIntent.RUN, DaemonIntent.STOP),
        "node": INT.optional.by_default(None),
    },
    operator.Cooldown: {"bucket": TEXT, "until": MOMENT},
    events.ForgetDaemon: {"daemon": INT},
    events.ForgetChain: {"chain": INT},
    events.ReplicaUpdate: {"chain": INT, "holder": INT, "change": word(ReplicaChange.LOST, ReplicaChange.ADDED)},
    events.ReplicaLeaderUpdate: {"chain": INT, "leader": INT.optional, "term": INT.by_default(0)},
    events.ReplicaBecameHolderAndLeader: {"chain": INT, "holder": INT, "term": INT.by_default(0)},
    events.ReplicaLeaderLostAndRemoved: {"chain": INT, "holder": INT},
    events.PlacementIntent: {"chain": INT, "desired_replicas": COUNT},
    events.LocalReplicaIntentUpdate: {
        "chain": INT,
        "intent": word(LocalReplicaIntent.HOLD, LocalReplicaIntent.DROP),
    },
    events.RttSample: {"peer": INT, "rtt": SPANNED},
    events.NodeHealthUpdate: {"peer": INT, "health": NODE_HEALTH},
    events.MaintenanceTransitionObserved: {"node": INT, "state": STATE},
    events.LogLine: {
        "level": word(LogLevel.WARN, LogLevel.TRACE),
        "message": TEXT,
        "daemon": INT.optional.by_default(None),
    },
    events.UnsignedAdminEvent: {"event": instance(events.Drain(7, SPAN), events.Cordon(7))},
    events.EnterMaintenance: {"node": INT, "drain_for": SPANNED.optional.by_default(None)},
    events.ExitMaintenance: {"node": INT},
    events.Drain: {"node": INT, "drain_for": SPANNED},
    events.Cordon: {"node": INT},
    events.Uncordon: {"node": INT},
    events.RestartAllDaemons: {"node": INT},
    events.ClearAvoidList: {"node": INT},
    events.DropReplicas: {"node": INT, "chains": tuple_of(INT)},
    events.InvalidatePlacement: {"node": INT},
    operator.FreezeCluster: {"ttl": SPANNED},
    operator.ThawCluster: {},
    operator.Local: {"node": INT},
    operator.OnPeer: {"peer": INT},
    operator.Global: {},
    operator.FlushAvoidLists: {"scope": instance(operator.OnPeer(7), operator.Global())},
    operator.ForceEvictReplica: {"chain": INT, "victim": INT},
    operator.ForceRestartDaemon: {"daemon": DAEMON},
    operator.ForceCutover: {"chain": INT, "target": INT},
    operator.KillMigration: {"migration": INT},
    operator.OperatorSignature: {
        "public_key": Field(bytes(range(32)), bytes(32), BAD_BYTES_32),
        "signature": Field(bytes(range(64)), bytes(64), BAD_SIGNATURES),
    },
    status.Active: {},
    status.EnteringMaintenance: {
        "since": MOMENT,
        "deadline": MOMENT,
        "daemons_left": COUNT.by_default(0),
        "replicas_left": COUNT.by_default(0),
    },
    status.Maintenance: {"since": MOMENT},
    status.ExitingMaintenance: {"since": MOMENT},
    status.DrainFailed: {"since": MOMENT, "reason": TEXT},
    status.Recovery: {"since": MOMENT},
    dispatch.Cause: {
        "kind": literal("operator", "sweep").by_default("event"),
        "detail": TEXT.by_default(""),
        "envelope_id": ENVELOPE.by_default(None),
    },
    dispatch.StartDaemon: {"daemon": DAEMON},
    dispatch.StopDaemon: {"daemon": DAEMON, "reason": TEXT, "deadline": MOMENT},
    dispatch.ApplyBackoff: {"daemon": DAEMON, "until": MOMENT},
    dispatch.PullReplica: {"chain": INT, "source": INT},
    dispatch.DropReplica: {"chain": INT},
    dispatch.RequestPlacement: {"chain": INT, "exclude": tuple_of(INT), "target": INT.optional},
    dispatch.RequestEviction: {"chain": INT, "victim": INT},
    dispatch.MarkAvoid: {"peer": INT, "reason": TEXT, "until": MOMENT},
    dispatch.CommitMaintenanceTransition: {"node": INT, "target": STATE},
    dispatch.BackpressureChange: {"asserted": BOOL, "level": SHARE},
    status.Idle: {},
    status.BackingOff: {"until": MOMENT},
    status.CrashLooping: {"until": MOMENT},
    status.AvoidEntry: {"reason": TEXT, "until": MOMENT},
    status.Reason: {"kind": TEXT, "text": TEXT, "until": AT},
    probes.ProbeCounts: {"locality": INT, "health": INT, "inventory": INT},
}
BY_KEYWORD: dict[Class, Fields] = {
    probes.PeerInventory: {name: field.by_default(None) for name, field in INVENTORY.items()},
    status.CrashRecord: {
        "exception": TEXT,
        "message": TEXT,
        "at": MOMENT,
        "event_origin": INT.optional,
        "event_sequence": INT.optional,
    },
    status.DaemonSnapshot: {
        "ref": DAEMON,
        "intent": word(DaemonIntent.RUN, DaemonIntent.STOP).optional,
        "lifecycle": word(Lifecycle.RUNNING, Lifecycle.STOPPED),
        "health": HEALTH.optional,
        "saturation": SHARE,
        "restart_state": instance(status.BackingOff(NOON), status.Idle()),
        "restarts": INT,
        "last_crash": instance(CRASH, None).optional,
        "started_at": MOMENT.optional,
        "placement": INT,
        "capabilities": instance(CapabilitySet(["gpu"]), CapabilitySet()).optional.by_default(None),
    },
    status.ReplicaSnapshot: {
        "holders": tuple_of(INT),
        "desired_count": COUNT.optional,
        "leader": INT.optional,
        "term": INT,
    },
    status.PeerSnapshot: {
        "rtt": SPANNED.optional,
        "health": NODE_HEALTH.optional,
        "maintenance": word(MaintenancePhase.RECOVERY, MaintenancePhase.ACTIVE).optional,
        "cordoned": BOOL,
        **INVENTORY,
        "capability_set": TAGS,
    },
    status.ActionSnapshot: {
        "action_id": INT,
        "kind": TEXT,
        "target": INT.optional,
        "state": literal("awaiting_confirmation", "done"),
        "emitted_at": MOMENT,
        "attempts": COUNT,
    },
    status.CallbackStatus: {
        "calls": INT,
        "failures": INT,
        "late": INT,
        "disabled": BOOL,
        "slowest": SPANNED,
        "last_error": TEXT.optional,
    },
    status.LoopMetrics: {
        "tick_took": SPANNED,
        "event_queue_depth": INT,
        "action_queue_depth": INT,
        "dropped_actions": INT,
        "refused_events": INT,
        "sweep_repairs": INT,
    },
    status.PeerCounts: dict.fromkeys(("healthy", "degraded", "unreachable", "unknown"), INT),
    status.DaemonCounts: dict.fromkeys(
        ("running", "starting", "stopping", "stopped", "backing_off", "crash_looping"), INT
    ),
    status.StatusSummary: {
        "peers": instance(PEERS, status.PeerCounts(healthy=0, degraded=0, unreachable=0, unknown=0)),
        "daemons": instance(
            DAEMONS,
            status.DaemonCounts(running=0, starting=0, stopping=0, stopped=0, backing_off=0, crash_looping=0),
        ),
        "replica_chains": INT,
        "avoid_list_entries": INT,
        "recently_emitted": INT,
        "recent_failures": INT,
        "frozen": BOOL,
        "local_maintenance": word(MaintenancePhase.DRAIN_FAILED, MaintenancePhase.ACTIVE),
    },
    status.Explanation: {
        "subject": Field(DaemonRef(7, "counter"), 12, BAD_INTS),
        "desired": TEXT,
        "actual": TEXT,
        "rule": TEXT,
        "reasons": tuple_of(instance(status.Reason("backoff", "waits"), status.Reason("frozen", "", NOON))),
    },
    recovery.RecoveryStatus: {
        "name": TEXT,
        "runs": INT,
        "recovered": INT,
        "strikes": COUNT,
        "last_error": TEXT.optional,
        "last_run_at": MOMENT.optional,
        "last_took": SPANNED,
    },
    runtime.ExecutorStatsSnapshot: dict.fromkeys(COUNTERS, INT),
    runtime.RuntimeStats: {
        "reconcile_passes": INT,
        "executor": instance(EXECUTED, runtime.ExecutorStatsSnapshot(**dict.fromkeys(COUNTERS, 0))),
        "dropped_actions": INT,
    },
    runtime.RuntimeHealth: {
        "loop_alive": BOOL,
        "executor_alive": BOOL,
        "last_tick_at": MOMENT,
        "last_tick_took": SPANNED,
    },
    migration.MigrationSnapshot: {
        "daemon_origin": INT,
        "phase": word(MigrationPhase.REPLAY, MigrationPhase.SNAPSHOT),
        "started_at": MOMENT,
        "phase_entered_at": MOMENT,
        "source_node": INT,
        "target_node": INT,
        "snapshot_bytes": INT.optional,
        "bytes_moved": INT,
        "retries": COUNT,
        "buffered_events": INT.optional,
    },
    migration.MigrationOutcome: {
        "origin_hash": INT,
        "source_node": INT,
        "target_node": INT,
        "epoch": INT,
        "took": SPANNED,
        "blackout": SPANNED,
        "snapshot_took": SPANNED,
        "bytes_moved": INT,
        "rounds": COUNT,
        "mode": literal("live", "stop"),
    },
    scheduler.MigrationCost: {
        "state_transfer": SPANNED.by_default(timedelta()),
        "disruption": SPANNED.by_default(timedelta()),
        "reliability_factor": WEIGHT.by_default(1.0),
    },
    operator.BlastRadius: {
        "affected_nodes": tuple_of(INT),
        "affected_replicas": tuple_of(INT),
        "affected_daemons": tuple_of(DAEMON),
        "estimated_drain_delay": WHOLE_MS.optional,
        "placement_churn_basis_points": COUNT,
        "warnings": tuple_of(WARNING),
    },
    operator.Operator: {
        "operator_id": INT,
        "verify_key": Field(
            SigningKey(bytes(32)).verify_key,
            SigningKey(bytes([1]) * 32).verify_key,
            [(value, TypeError) for value in (None, bytes(32), SigningKey(bytes(32)), "key")],
        ),
        "name": TEXT,
        "roles": Field(
            frozenset({Role.ADMIN, Role.ICE}),
            frozenset(),
            [(value, TypeError) for value in (None, {Role.ICE}, [Role.ICE], Role.ICE, frozenset({"ice"}))],
        ),
        "not_before": AT,
        "not_after": AT,
    },
    operator.CommitReceipt: {
        "envelope_id": ENVELOPE_ID,
        "event_kind": TEXT,
        "verdict": word(Verdict.ACCEPTED, Verdict.UNVERIFIED),
        "operator_ids": tuple_of(INT),
        "committed_at": MOMENT,
        "audit_seq": INT,
        "generation": INT,
    },
    operator.LogFilter: {
        "min_level": word(LogLevel.WARN, LogLevel.ERROR).by_default(LogLevel.TRACE),
        "daemon": INT.optional.by_default(None),
        "node": INT.optional.by_default(None),
        "since": INT.by_default(0),
    },
    operator.AuditQuery: {
        "recent": INT.optional.by_default(None),
        "by_operator": INT.optional.by_default(None),
        "between": BETWEEN.optional.by_default(None),
        "since": INT.by_default(0),
        "force_only": BOOL.by_default(False),
        "verdict": word(Verdict.REJECTED, Verdict.ACCEPTED).optional.by_default(None),
        "event_kind": TEXT.optional.by_default(None),
        "target": INT.optional.by_default(None),
    },
    audit.FailureSource: {
        "part": literal("callback", "loop"),
        "name": TEXT,
        "target": INT.optional.by_default(None),
        "action_id": INT.optional.by_default(None),
        "envelope_id": ENVELOPE.by_default(None),
    },
    audit.FailureRecord: {
        "seq": INT,
        "at": MOMENT,
        "source": instance(SOURCE, audit.FailureSource(part="loop", name="")),
        "reason": TEXT,
        "traceback": TEXT.optional.by_default(None),
        "chain_pending": PENDING,
    },
    audit.LogRecord: {
        "seq": INT,
        "at": MOMENT,
        "level": word(LogLevel.ERROR, LogLevel.TRACE),
        "node": INT,
        "daemon": INT.optional,
        "message": TEXT,
        "chain_pending": PENDING,
    },
    audit.AdminAuditRecord: {
        "seq": INT,
        "committed_at": MOMENT,
        "event": ORDER,
        "envelope_id": ENVELOPE,
        "operator_ids": tuple_of(INT),
        "reason": TEXT,
        "verdict": word(Verdict.REJECTED, Verdict.UNVERIFIED),
        "rejected_kind": TEXT.optional,
        "times": INT.by_default(1),
        "chain_pending": PENDING,
    },
    audit.RecordsReport: {
        "records": INT,
        "first_seq": INT,
        "last_seq": INT,
        "head_digest": DIGEST,
        "signed_through": INT,
    },
    audit.MaintenanceOrder: {"node": INT, "since": MOMENT, "deadline": MOMENT.optional, "returns": BOOL},
    audit.ForcedOrder: {
        "chain": INT,
        "order": literal("evict", "cutover"),
        "node": INT,
        "until": MOMENT,
        "envelope_id": ENVELOPE,
    },
    audit.ReplayReport: {
        "records": INT,
        "accepted": INT,
        "rejected": INT,
        "runs": INT,
        "at": MOMENT.optional,
        "freeze_until": MOMENT.optional,
        "cordoned": tuple_of(INT),
        "maintenance": tuple_of(instance(ORDERED, OTHER_ORDERED)),
        "forced": tuple_of(instance(FORCED, OTHER_FORCED)),
        "envelopes": INT,
        "digest": DIGEST,
    },
    audit.ActionRecord: {
        "seq": INT,
        "at": MOMENT,
        "action_id": INT,
        "action": TEXT,
        "disposition": literal("dispatched", "superseded"),
        "reason": TEXT,
        "retry_after": SPANNED.optional.by_default(None),
        "chain_pending": PENDING,
    },
}
TABLE = {**BY_POSITION, **BY_KEYWORD}
ACTIONS: list[Class] = [
    dispatch.StartDaemon,
    dispatch.StopDaemon,
    dispatch.ApplyBackoff,
    dispatch.PullReplica,
    dispatch.DropReplica,
    dispatch.RequestPlacement,
    dispatch.RequestEviction,
    dispatch.MarkAvoid,
    dispatch.CommitMaintenanceTransition,
]
ICE_ACTIONS: list[Class] = [
    operator.FreezeCluster,
    operator.ThawCluster,
    operator.FlushAvoidLists,
    operator.ForceEvictReplica,
    operator.ForceRestartDaemon,
    operator.ForceCutover,
    operator.KillMigration,
]
ENUMS = (
    DaemonIntent,
    Lifecycle,
    LocalReplicaIntent,
    LogLevel,
    MaintenancePhase,
    migration.MigrationFailureReason,
    MigrationPhase,
    NodeHealth,
    ReplicaChange,
    Role,
    Verdict,
)


def name_of(cls: object) -> str:
    return cast("type", cls).__name__


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


every_record = pytest.mark.parametrize("cls", TABLE, ids=name_of)


def made(cls: Class, **changed: object) -> object:
    return cls(**{**{name: field.good for name, field in TABLE[cls].items()}, **changed})


@every_record
def test_it_is_a_record(cls: Class) -> None:
    good = {name: field.good for name, field in TABLE[cls].items()}
    other = {name: field.other for name, field in TABLE[cls].items()}

    check_record(made(cls), good, by_keyword=cls in BY_KEYWORD)
    check_record(cls(**other), other, by_keyword=cls in BY_KEYWORD)


@every_record
def test_every_field_is_compared(cls: Class) -> None:
    for name, field in TABLE[cls].items():
        changed = made(cls, **{name: field.other})
        assert (changed != made(cls)) is field.compared
        assert (hash(changed) == hash(made(cls))) is not field.compared


@every_record
def test_what_may_be_left_out_has_its_default(cls: Class) -> None:
    needed = {name: field.good for name, field in TABLE[cls].items() if field.default is inspect.Parameter.empty}

    shortest = cls(**needed)

    for name, field in TABLE[cls].items():
        expected = field.good if name in needed else field.default
        assert getattr(shortest, name) == expected
    for name in needed:
        with pytest.raises(TypeError):
            cls(**{each: value for each, value in needed.items() if each != name})


@every_record
def test_the_signature_shows_names_and_defaults(cls: Class) -> None:
    shown = {**inspect.signature(cls).parameters}
    if cls in ACTIONS:
        assert shown.pop("cause").kind is inspect.Parameter.KEYWORD_ONLY

    assert list(shown) == list(TABLE[cls])
    for name, field in TABLE[cls].items():
        assert shown[name].default in (field.default, ...)
        assert (shown[name].default is inspect.Parameter.empty) is (field.default is inspect.Parameter.empty)


@every_record
def test_bad_values_are_refused_by_name(cls: Class) -> None:
    good = {name: field.good for name, field in TABLE[cls].items()}

    check_refused(cls, good, {name: field.bad for name, field in TABLE[cls].items()})


@every_record
def test_it_says_what_it_is(cls: Class) -> None:
    assert cls.__doc__
    for name in TABLE[cls]:
        assert getattr(cls, name).__doc__, name


@every_record
def test_it_is_small_enough_to_have_by_the_thousand(cls: Class) -> None:
    assert not hasattr(made(cls), "__dict__")


@every_record
def test_it_cannot_be_subclassed(cls: Class) -> None:
    with pytest.raises(TypeError):
        type("Mine", (cast("type", cls),), {})


ELSEWHERE = {
    runtime.MetadataView,
    operator.BlastWarning,
    events.SignedAdminCommit,
    events.SignedIceCommit,
    migration.MigrationOpts,
    migration.MigrationStats,
    migration.MigrationMessage,
    migration.SnapshotChunk,
}
"""What depends on more than each field alone, or shows itself in short."""


def test_every_record_of_the_loop_is_in_the_table() -> None:
    for module in (audit, dispatch, events, migration, operator, probes, recovery, runtime, scheduler, status):
        classes = {value for name in module.__all__ if isinstance(value := getattr(module, name), type)}
        records = {cls for cls in classes if hasattr(cls, "__match_args__")}
        assert {cls for cls in records if not cls.__name__.endswith("Config")} - set(TABLE) == records & ELSEWHERE
        assert {cls for cls in classes if issubclass(cls, StrEnum)} <= set(ENUMS)


WITH_KIND = [cls for cls in TABLE if name_of(cls) in events.__all__ or cls in ACTIONS or cls in ICE_ACTIONS]


@pytest.mark.parametrize("cls", WITH_KIND, ids=name_of)
def test_the_kind_is_the_name(cls: Class) -> None:
    kind = snake(name_of(cls))

    assert getattr(cls, "kind", None) == getattr(made(cls), "kind", None) == kind


def test_records_of_different_classes_are_not_equal() -> None:
    made_of_all = {made(cls) for cls in TABLE}

    assert len(made_of_all) == len(TABLE)
    assert events.Cordon(7) != events.Uncordon(7)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("cls", ENUMS)
def test_words_are_texts(cls: type[StrEnum]) -> None:
    assert issubclass(cls, StrEnum)
    for member in cls:
        assert isinstance(member, str)
        assert str(member) == member.value == cls(member.value)
    assert cls.__doc__


@pytest.mark.parametrize(
    ("cls", "field", "members"),
    [
        (events.DaemonIntentUpdate, "intent", DaemonIntent),
        (events.LocalReplicaIntentUpdate, "intent", LocalReplicaIntent),
        (events.ReplicaUpdate, "change", ReplicaChange),
        (events.LogLine, "level", LogLevel),
        (events.NodeHealthUpdate, "health", NodeHealth),
        (status.DaemonSnapshot, "lifecycle", Lifecycle),
        (status.PeerSnapshot, "maintenance", MaintenancePhase),
        (migration.MigrationSnapshot, "phase", MigrationPhase),
        (audit.AdminAuditRecord, "verdict", Verdict),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_word_comes_back_as_itself(cls: Class, field: str, members: type[StrEnum]) -> None:
    for member in members:
        assert getattr(made(cls, **{field: member}), field) is member


def test_states_tell_their_phase() -> None:
    phases = {
        status.Active: MaintenancePhase.ACTIVE,
        status.EnteringMaintenance: MaintenancePhase.ENTERING,
        status.Maintenance: MaintenancePhase.MAINTENANCE,
        status.ExitingMaintenance: MaintenancePhase.EXITING,
        status.DrainFailed: MaintenancePhase.DRAIN_FAILED,
        status.Recovery: MaintenancePhase.RECOVERY,
    }

    assert set(phases.values()) == set(MaintenancePhase)
    for cls, phase in phases.items():
        assert getattr(cls, "phase", None) is phase
        assert getattr(made(cls), "phase", None) is phase


LITERALS: list[tuple[Class, str, tuple[str, ...]]] = [
    (dispatch.Cause, "kind", ("event", "probe", "timer", "operator", "sweep")),
    (
        status.ActionSnapshot,
        "state",
        ("queued", "deferred", "running", "awaiting_confirmation", "done", "failed"),
    ),
    (audit.FailureSource, "part", ("action", "callback", "probe", "recovery", "appender", "migration", "loop")),
    (audit.ForcedOrder, "order", ("evict", "cutover")),
    (audit.ActionRecord, "disposition", ("dispatched", "failed", "gated", "superseded")),
]


@pytest.mark.parametrize(("cls", "field", "texts"), LITERALS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_text_of_a_literal_comes_back(cls: Class, field: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert getattr(made(cls, **{field: text}), field) == text
    with pytest.raises(InvalidArgument) as raised:
        made(cls, **{field: "other"})
    assert all(text in str(raised.value) for text in texts)


# ---------------------------------------------------------------- causes of actions

OPERATOR = dispatch.Cause("operator", "drain", bytes(16))


@pytest.mark.parametrize("cls", ACTIONS, ids=name_of)
def test_the_cause_of_an_action_is_kept_and_not_compared(cls: Class) -> None:
    action, caused = made(cls), made(cls, cause=OPERATOR)

    assert getattr(action, "cause", None) == dispatch.Cause() == dispatch.Cause("event", "", None)
    assert getattr(caused, "cause", None) == OPERATOR
    assert caused == action
    assert hash(caused) == hash(action)
    assert repr(caused) != repr(action)
    for twin in (*twins(caused), evaluated(repr(caused))):
        assert twin == caused
        assert getattr(twin, "cause", None) == OPERATOR


@pytest.mark.parametrize("cls", ACTIONS, ids=name_of)
def test_the_cause_of_an_action_is_given_by_keyword(cls: Class) -> None:
    good = [field.good for field in TABLE[cls].values()]

    with pytest.raises(TypeError):
        cls(*good, OPERATOR)
    for wrong in (None, "operator", ("operator", "", None), dispatch.Cause):
        with pytest.raises(TypeError, match="cause must be a Cause"):
            cls(*good, cause=wrong)


# ---------------------------------------------------------------- use


def test_events_are_matched() -> None:
    def told(event: events.MeshOsEvent) -> str:
        match event:
            case events.DaemonLifecycle(DaemonRef(id=id), events.Crashed(reason)):
                return f"{id} {reason}"
            case events.RttSample(peer, rtt):
                return f"{peer} {rtt}"
            case events.UnsignedAdminEvent(events.Drain(drain_for=span)):
                return str(span)
            case events.MaintenanceTransitionObserved(_, status.Recovery(since)):
                return f"{since:%H}"
            case _:
                return event.kind

    assert told(events.DaemonLifecycle(DaemonRef(7), events.Crashed("gone"))) == "7 gone"
    assert told(events.RttSample(2, timedelta(seconds=1))) == "2 0:00:01"
    assert told(events.UnsignedAdminEvent(events.Drain(1, timedelta(minutes=1)))) == "0:01:00"
    assert told(events.MaintenanceTransitionObserved(1, status.Recovery(NOON))) == "12"
    assert told(events.ForgetChain(7)) == "forget_chain"


def test_an_explanation_is_for_people() -> None:
    reasons = (status.Reason("backoff", "waits after a crash", NOON), status.Reason("frozen", "the cluster is frozen"))
    fields = {"desired": "running", "actual": "stopped", "rule": "backoff"}

    assert str(status.Explanation(subject=DaemonRef(42, "ingest"), **fields, reasons=reasons)) == (
        "daemon ingest (000000000000002a): wanted running, is stopped; decided by backoff\n"
        "  backoff: waits after a crash, until 2026-11-21 12:00:00.123000+00:00\n"
        "  frozen: the cluster is frozen"
    )
    assert str(status.Explanation(subject=DaemonRef(42), **fields, reasons=())).startswith("daemon 000000000000002a: ")
    assert str(status.Explanation(subject=42, **fields, reasons=())).startswith("chain 000000000000002a: ")


def test_moments_are_kept_to_the_microsecond_and_shown_in_utc() -> None:
    there = datetime.fromisoformat("2026-11-21T21:00:00.123456+09:00")

    kept = events.Crashed("gone", there).at

    assert kept == there
    assert kept is not None
    assert kept.utcoffset() == timedelta()


def test_a_signal_of_the_registry_alone_is_not_published() -> None:
    with pytest.raises(TypeError, match="signal"):
        events.DaemonLifecycle(DaemonRef(7), events.Registered())  # type: ignore[arg-type]
