"""Operators: their keys, the registry of who may do what, and previews of what an action would touch."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey

import envelopes
from envelopes import key, operator_id
from loops import CONFIG, Calls, seen
from meshos import DaemonIntent, DaemonRef, MeshOsConfig, MeshOsRuntime
from meshos.errors import IdentityError, InvalidArgument, SignatureInvalid
from meshos.events import (
    DaemonIntentUpdate,
    MeshOsEvent,
    ReplicaChange,
    ReplicaUpdate,
    RttSample,
)
from meshos.operator import (
    BlastRadius,
    BlastWarning,
    BlastWarningKind,
    FlushAvoidLists,
    ForceCutover,
    ForceEvictReplica,
    ForceRestartDaemon,
    FreezeCluster,
    Global,
    HardwareKey,
    IceAction,
    KillMigration,
    Local,
    OnPeer,
    OperatorKey,
    OperatorRegistry,
    OperatorSignature,
    Role,
    ThawCluster,
    simulate,
)
from meshos.status import MeshOsSnapshot
from orders import read
from records import BAD_MOMENTS, NOON, check_refused, evaluated

CORDON = envelopes.admin_vectors()["cordon"]
FREEZE = envelopes.ice_vectors()["freeze_cluster"]
ALICE, BOB = key(1), key(2)
NOWHERE = b"\xff" * 32
"""No point of the curve."""
SMALL = b"\1" + bytes(31)
"""A point of small order."""


# ---------------------------------------------------------------- keys


class Device:
    """A key that signs, or does what the test says."""

    def __init__(self, key: SigningKey, **changed: Any) -> None:
        self.key = key
        self.changed = changed
        self.asked: list[bytes] = []

    @property
    def public_key(self) -> bytes:
        return cast("bytes", self.changed.get("public_key", bytes(self.key.verify_key)))

    def sign(self, message: bytes, /) -> bytes:
        self.asked.append(message)
        if "error" in self.changed:
            raise self.changed["error"]
        return cast("bytes", self.changed.get("signature", self.key.sign(message).signature))


def test_a_key_is_named_by_its_public_half() -> None:
    made = OperatorKey(ALICE)

    assert made.operator_id == operator_id(bytes(ALICE.verify_key)) == 0x9FC7_1559_6599_9251
    assert made.verify_key == ALICE.verify_key
    assert repr(made) == "<OperatorKey 9fc7155965999251>"
    assert made == OperatorKey(SigningKey(bytes(ALICE)))
    assert hash(made) == hash(OperatorKey(ALICE))
    assert made != OperatorKey(BOB)
    assert made != bytes(ALICE.verify_key)
    assert len({OperatorKey.generate().operator_id for _ in range(3)}) == 3


def test_a_secret_is_not_shown_pickled_or_copied() -> None:
    made = OperatorKey(ALICE)

    for shown in (repr(made), str(made), f"{made}"):
        assert bytes(ALICE).hex() not in shown
    for spread in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="secret"):
            spread(made)
    assert not hasattr(made, "__dict__")


def test_a_key_signs_the_bytes_of_an_envelope() -> None:
    for envelope in (CORDON, FREEZE):
        found = read(envelope)
        signature = OperatorKey(ALICE).sign(found)
        assert (signature.public_key, signature.signature) == envelope.signed(ALICE).signatures[0]
        ALICE.verify_key.verify(found.signing_bytes(), signature.signature)
    for value in (None, b"", FREEZE.signing_bytes(), FREEZE):
        with pytest.raises(TypeError, match="envelope must be"):
            OperatorKey(ALICE).sign(value)  # type: ignore[arg-type]


def test_a_device_signs_without_giving_its_key_away() -> None:
    device = Device(ALICE)
    assert isinstance(device, HardwareKey)
    made = OperatorKey(device)
    envelope = read(FREEZE)

    assert made.sign(envelope) == OperatorKey(ALICE).sign(envelope)
    assert device.asked == [envelope.signing_bytes()]
    assert made == OperatorKey(ALICE)
    with pytest.raises(IdentityError) as caught:
        made.save("nowhere")
    assert caught.value.kind == "read_only"


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), BOB.sign(b"x").signature], ids=len)
def test_a_device_that_signs_something_else_is_found_out(signature: bytes) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        OperatorKey(Device(ALICE, signature=signature)).sign(read(FREEZE))
    assert (caught.value.operator_id, caught.value.audit_seq) == (OperatorKey(ALICE).operator_id, None)


def test_what_a_device_raises_passes_through() -> None:
    with pytest.raises(ConnectionError, match="unplugged"):
        OperatorKey(Device(ALICE, error=ConnectionError("unplugged"))).sign(read(FREEZE))
    with pytest.raises(TypeError, match="sign of the key must return bytes"):
        OperatorKey(Device(ALICE, signature=64)).sign(read(FREEZE))


def test_what_is_no_key_is_refused() -> None:
    for value in (None, bytes(ALICE), ALICE.verify_key, "key", OperatorKey(ALICE)):
        with pytest.raises(TypeError, match="key must be"):
            OperatorKey(value)  # type: ignore[arg-type]
    for public_key in (b"", bytes(31), bytes(33), NOWHERE, SMALL):
        with pytest.raises(InvalidArgument, match="key: must have a usable"):
            OperatorKey(Device(ALICE, public_key=public_key))
    for wrong in (None, "x" * 32, bytearray(32)):
        with pytest.raises(TypeError, match="public_key of the key must be bytes"):
            OperatorKey(Device(ALICE, public_key=wrong))


def test_a_signature_names_its_operator() -> None:
    signature = OperatorSignature(bytes(ALICE.verify_key), bytes(64))

    assert signature.operator_id == OperatorKey(ALICE).operator_id
    with pytest.raises(AttributeError):
        signature.operator_id = 7  # type: ignore[misc]


@given(st.binary(min_size=32, max_size=32))
def test_the_id_is_the_published_one(seed: bytes) -> None:
    key = SigningKey(seed)

    assert OperatorKey(key).operator_id == operator_id(bytes(key.verify_key))


# ---------------------------------------------------------------- the registry


def test_operators_are_added_and_listed() -> None:
    operators = OperatorRegistry()
    assert (len(operators), operators.operators(), repr(operators)) == (0, (), "<OperatorRegistry of 0 operators>")

    alice = operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE, Role.ICE])
    bob = operators.add(bytes(BOB.verify_key), name="bob", roles={Role.VIEWER}, not_before=NOON, not_after=NOON)

    assert (alice, bob) == (OperatorKey(ALICE).operator_id, OperatorKey(BOB).operator_id)
    first, second = operators.operators()
    assert (first.operator_id, first.name, first.verify_key) == (alice, "alice", ALICE.verify_key)
    assert (first.roles, first.not_before, first.not_after) == (frozenset({Role.ADMIN, Role.ICE}), None, None)
    assert (second.roles, second.not_before, second.not_after) == (frozenset({Role.VIEWER}), NOON, NOON)
    assert all(role in Role for operator in (first, second) for role in operator.roles)
    assert evaluated(repr(second)) == second
    assert len(operators) == 2
    assert alice in operators
    for other in (7, -1, 2**70, True, "alice", None, ALICE.verify_key):
        assert other not in operators


def test_a_key_and_a_name_are_there_once() -> None:
    operators = OperatorRegistry()
    alice = operators.add(ALICE.verify_key, name="alice", roles=[Role.ICE])

    for key_, name, argument in ((ALICE, "other", "key"), (BOB, "alice", "name")):
        with pytest.raises(InvalidArgument) as caught:
            operators.add(key_.verify_key, name=name, roles=[Role.ICE])
        assert caught.value.argument == argument
    operators.revoke(alice)
    with pytest.raises(InvalidArgument, match="key: "):
        operators.add(ALICE.verify_key, name="alice", roles=[Role.ICE])
    assert operators.add(BOB.verify_key, name="alice", roles=[Role.ICE])


def test_a_rotated_operator_keeps_everything_but_the_key() -> None:
    operators = OperatorRegistry()
    bob = operators.add(BOB.verify_key, name="bob", roles=[Role.ICE], not_after=NOON)

    new = operators.rotate(bob, key(7).verify_key)

    (operator,) = operators.operators()
    assert new == operator.operator_id == OperatorKey(key(7)).operator_id
    assert (operator.name, operator.roles, operator.not_after) == ("bob", frozenset({Role.ICE}), NOON)
    assert bob not in operators
    for old in (bob, 7):
        with pytest.raises(InvalidArgument) as caught:
            operators.rotate(old, key(8).verify_key)
        assert caught.value.argument == "operator_id"
    for taken in (BOB, key(7)):
        with pytest.raises(InvalidArgument) as caught:
            operators.rotate(new, taken.verify_key)
        assert caught.value.argument == "new"


def test_a_revoked_operator_is_gone_for_good() -> None:
    operators = OperatorRegistry()
    bob = operators.add(BOB.verify_key, name="bob", roles=[Role.ICE])

    operators.revoke(bob)

    assert (len(operators), bob in operators, operators.operators()) == (0, False, ())
    for gone in (bob, 7, 2**64 - 1):
        with pytest.raises(InvalidArgument, match="operator_id: "):
            operators.revoke(gone)


def test_arguments_of_the_registry_are_checked() -> None:
    moments = [(value, error) for value, error in BAD_MOMENTS if value is not None]
    good: dict[str, object] = {"key": ALICE.verify_key, "name": "alice", "roles": [Role.ICE]}
    check_refused(
        lambda **arguments: OperatorRegistry().add(**arguments),
        good,
        {
            "key": [
                *((value, TypeError) for value in (None, "key", 7, ALICE, bytearray(32), ALICE.verify_key.encode)),
                *(
                    (value, InvalidArgument)
                    for value in (b"", bytes(31), bytes(33), NOWHERE, SMALL, VerifyKey(NOWHERE))
                ),
            ],
            "name": [
                *((value, TypeError) for value in (None, b"alice", 7)),
                *((value, InvalidArgument) for value in ("", "a" * 256, "a\nb", "\x1b[2J", "\ud800")),
            ],
            "roles": [
                *((value, TypeError) for value in (None, 7, Role.ICE, "ice", ["ice"], [None], [Role.ICE, 7])),
                ((), InvalidArgument),
                (frozenset(), InvalidArgument),
            ],
            "not_before": moments,
            "not_after": moments,
        },
    )
    with pytest.raises(InvalidArgument, match="not_after: must not be before"):
        OperatorRegistry().add(
            ALICE.verify_key,
            name="a",
            roles=[Role.ICE],
            not_before=NOON,
            not_after=NOON - timedelta(milliseconds=1),
        )
    for method in (OperatorRegistry().revoke, lambda bad: OperatorRegistry().rotate(bad, ALICE.verify_key)):
        for value in ("1", None, 1.5, True):
            with pytest.raises(TypeError, match="operator_id"):
                method(value)  # type: ignore[arg-type]


def test_an_iterable_of_roles_that_raises_passes_its_error_on() -> None:
    def roles() -> Iterator[Role]:
        yield Role.ICE
        raise OSError("the file of roles is gone")

    operators = OperatorRegistry()
    with pytest.raises(OSError, match="gone"):
        operators.add(ALICE.verify_key, name="alice", roles=list(roles()))
    with pytest.raises(OSError, match="gone"):
        operators.add(ALICE.verify_key, name="alice", roles=cast("list[Role]", roles()))
    assert len(operators) == 0


# ---------------------------------------------------------------- warnings

COUNTS = {kind: len(ids) for kind, ids in envelopes.ice_vectors()["everything"].blast.warnings}


@pytest.mark.parametrize("kind", COUNTS)
def test_a_warning_is_about_so_many_ids(kind: BlastWarningKind) -> None:
    targets = tuple(range(1, 1 + COUNTS[kind]))
    warning = BlastWarning(kind, targets)

    assert (warning.kind, warning.targets) == (kind, targets)
    assert evaluated(repr(warning)) == copy.deepcopy(warning) == pickle.loads(pickle.dumps(warning)) == warning
    assert hash(warning) == hash(BlastWarning(kind=kind, targets=targets))
    match warning:
        case BlastWarning(matched, ids):
            assert (matched, ids) == (kind, targets)
    for count in {0, 1, 2, 3, 300} - {COUNTS[kind]}:
        with pytest.raises(InvalidArgument, match="targets: must be"):
            BlastWarning(kind, tuple(range(count)))


def test_the_kinds_of_warnings_are_those_of_the_type() -> None:
    kinds = {value for literal in get_args(BlastWarningKind) for value in get_args(literal)}

    assert kinds == set(COUNTS) == set(envelopes.WARNINGS)
    assert BlastWarning("thaw_has_no_freeze_to_cancel").targets == ()
    with pytest.raises(InvalidArgument, match="kind: "):
        BlastWarning("thaw")  # type: ignore[arg-type]
    for value in (None, 7, b"thaw_has_no_freeze_to_cancel"):
        with pytest.raises(TypeError, match="kind"):
            BlastWarning(value)  # type: ignore[arg-type]
    for targets in (7, [7], ("7",)):
        with pytest.raises(TypeError, match="targets"):
            BlastWarning("avoid_flush_recovers_peer", targets)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["affected_nodes", "affected_replicas", "affected_daemons"])
def test_a_preview_lists_each_id_once_and_in_order(field: str) -> None:
    good: dict[str, Any] = {
        "affected_nodes": (),
        "affected_replicas": (),
        "affected_daemons": (),
        "estimated_drain_delay": None,
        "placement_churn_basis_points": 0,
        "warnings": (),
    }
    for ids in ((2, 1), (1, 1), (0, 2, 1)):
        items = tuple(DaemonRef(one) if field == "affected_daemons" else one for one in ids)
        with pytest.raises(InvalidArgument, match=f"{field}: must be ascending"):
            BlastRadius(**{**good, field: items})


# ---------------------------------------------------------------- previews of a running node

DAEMON, CHAIN = DaemonRef(9, "counter"), 77


@contextmanager
def node(*published: MeshOsEvent, config: MeshOsConfig = CONFIG) -> Iterator[MeshOsRuntime]:
    """A node 1 with peers 2 and 3, a daemon, and a chain that 2 holds."""
    known: tuple[MeshOsEvent, ...] = (
        RttSample(2, timedelta(milliseconds=3)),
        RttSample(3, timedelta(milliseconds=3)),
        DaemonIntentUpdate(DAEMON, DaemonIntent.RUN),
        ReplicaUpdate(CHAIN, 2, ReplicaChange.ADDED),
    )
    with MeshOsRuntime.start(config, Calls()) as runtime:
        runtime.handle().publish_many([*known, *published])
        seen(runtime, lambda s: {2, 3} <= set(s.peers) and DAEMON.id in s.daemons and CHAIN in s.replicas)
        yield runtime


def row(action: IceAction, snapshot: MeshOsSnapshot) -> tuple[object, ...]:
    blast = simulate(snapshot, action)
    return (
        blast.affected_nodes,
        blast.affected_replicas,
        blast.affected_daemons,
        blast.estimated_drain_delay,
        blast.placement_churn_basis_points,
        *(warning.kind for warning in blast.warnings),
    )


def test_the_preview_of_every_action() -> None:
    """The table of what each action touches, with this node among all nodes."""
    everyone, minute = (1, 2, 3), timedelta(minutes=1)
    unknown = DaemonRef(10, "other")
    table: dict[IceAction, tuple[object, ...]] = {
        FreezeCluster(minute): (everyone, (), (), minute, 0, "cluster_freeze_blocks_operator_actions"),
        ThawCluster(): (everyone, (), (), None, 0, "thaw_has_no_freeze_to_cancel"),
        FlushAvoidLists(Local(2)): ((2,), (), (), None, 0, "avoid_flush_local_to_target_node_only"),
        FlushAvoidLists(OnPeer(3)): (everyone, (), (), None, 500, "avoid_flush_recovers_peer"),
        FlushAvoidLists(Global()): (everyone, (), (), None, 1000, "global_avoid_flush_may_re_emit"),
        ForceEvictReplica(CHAIN, 2): ((2,), (CHAIN,), (), None, 1500, "forced_eviction_bypasses_cooldown"),
        ForceEvictReplica(CHAIN, 3): (
            *((3,), (CHAIN,), (), None, 1500, "forced_eviction_bypasses_cooldown"),
            "forced_eviction_targets_non_holder",
        ),
        ForceEvictReplica(5, 2): (
            *((2,), (5,), (), None, 1500, "forced_eviction_bypasses_cooldown"),
            "forced_eviction_targets_unknown_chain",
        ),
        ForceRestartDaemon(DAEMON): (
            *((), (), (DAEMON,), None, 0, "forced_restart_bypasses_backoff"),
            "forced_restart_daemon_not_in_backoff",
        ),
        ForceRestartDaemon(unknown): (
            *((), (), (unknown,), None, 0, "forced_restart_bypasses_backoff"),
            "forced_restart_targets_unknown_daemon",
        ),
        ForceCutover(CHAIN, 3): ((3,), (CHAIN,), (), None, 1500, "forced_cutover_bypasses_placement_scorer"),
        ForceCutover(CHAIN, 2): (
            *((2,), (CHAIN,), (), None, 1500, "forced_cutover_bypasses_placement_scorer"),
            "forced_cutover_target_already_holder",
        ),
        ForceCutover(5, 3): (
            *((3,), (5,), (), None, 1500, "forced_cutover_bypasses_placement_scorer"),
            "forced_cutover_targets_unknown_chain",
        ),
        KillMigration(5): ((), (), (), None, 0, "kill_migration_only_local_visible"),
    }
    with node() as runtime:
        snapshot = runtime.snapshot()
        found = {action: row(action, snapshot) for action in table}

    assert found == table


def test_a_preview_names_the_daemon_as_it_is_known_here() -> None:
    with node() as runtime:
        blast = simulate(runtime.snapshot(), ForceRestartDaemon(DaemonRef(DAEMON.id, "what I think it is")))

    assert [daemon.name for daemon in blast.affected_daemons] == ["counter"]


def test_a_preview_is_of_its_snapshot_and_changes_nothing() -> None:
    with node() as runtime:
        snapshot = runtime.snapshot()
        before = simulate(snapshot, ThawCluster())
        runtime.handle().publish_many([RttSample(4, timedelta(milliseconds=3))])
        seen(runtime, lambda s: 4 in s.peers)
        assert simulate(snapshot, ThawCluster()) == before
        assert simulate(runtime.snapshot(), ThawCluster()).affected_nodes == (1, 2, 3, 4)


def test_a_preview_fits_an_envelope() -> None:
    with node() as runtime:
        blast = simulate(runtime.snapshot(), FreezeCluster(timedelta(seconds=1, microseconds=500)))

    assert blast.estimated_drain_delay == timedelta(seconds=1)
    assert pickle.loads(pickle.dumps(blast)) == blast
    encoded = replace(FREEZE.blast, nodes=(1, 2, 3), delay_ms=1000)
    assert read(replace(FREEZE, blast=encoded)).blast_radius == blast  # type: ignore[union-attr]


def test_a_preview_wants_a_snapshot_and_an_action() -> None:
    with node() as runtime:
        snapshot = runtime.snapshot()
    for bad_snapshot in (None, runtime, 7):
        with pytest.raises(TypeError, match="snapshot"):
            simulate(bad_snapshot, ThawCluster())  # type: ignore[arg-type]
    for bad_action in (None, ThawCluster, "thaw_cluster", datetime.now(UTC)):
        with pytest.raises(TypeError, match="action"):
            simulate(snapshot, bad_action)  # type: ignore[arg-type]
