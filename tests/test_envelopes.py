"""Envelopes: the extension against an independent program, both ways, and what a caller may put into one."""

import copy
import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envelopes
from envelopes import Admin, Blast, Header, Ice, key
from meshos import events
from meshos.daemon import DaemonRef
from meshos.errors import EnvelopeDecodeError, IceRequiresBundle, InvalidArgument
from meshos.events import SignedAdminCommit, SignedIceCommit
from meshos.operator import (
    AdminEnvelope,
    BlastRadius,
    ForceRestartDaemon,
    FreezeCluster,
    IceEnvelope,
    KillMigration,
    OperatorKey,
    OperatorSignature,
    ThawCluster,
)
from orders import EPOCH, MS, blast_of, check_says, made, read
from records import BAD_BYTES, BAD_INTS, BAD_MOMENTS, BAD_TEXTS, Cases, check_refused

VECTORS = envelopes.vectors()
KEPT: dict[str, Any] = json.loads(envelopes.FILE.read_text(encoding="utf-8"))
ADMIN = envelopes.admin_vectors()["drop_replicas"]
ICE = envelopes.ice_vectors()["everything"]
UNSIGNED = replace(ICE, signatures=())

every_vector = pytest.mark.parametrize("name", VECTORS)


# ---------------------------------------------------------------- the vectors


def test_every_kept_vector_is_recomputed() -> None:
    assert {name: envelopes.row(envelope) for name, envelope in VECTORS.items()} == KEPT


def test_there_is_a_vector_of_every_sort() -> None:
    admin = {str(envelope.event["kind"]) for envelope in VECTORS.values() if isinstance(envelope, Admin)}
    ice = [envelope for envelope in VECTORS.values() if isinstance(envelope, Ice)]

    assert admin == set(envelopes.EVENTS)
    assert {str(envelope.action["kind"]) for envelope in ice} == set(envelopes.ACTIONS)
    assert {str(envelope.action.get("scope")) for envelope in ice} >= set(envelopes.SCOPES)
    assert {kind for envelope in ice for kind, _ in envelope.blast.warnings} == set(envelopes.WARNINGS)


def test_the_published_values_hold() -> None:
    freeze = KEPT["freeze_cluster"]

    assert freeze["blast_hash"] == "3e88cde72c26bd0169818a4d997dce59ea6d4a045eb54192d3ea123b3abe6c2a"
    assert [one["operator_id"] for one in freeze["signatures"]] == ["9fc7155965999251", "f61ec30dde32951e"]


@every_vector
def test_a_vector_is_read_as_what_it_says(name: str) -> None:
    check_says(read(VECTORS[name]), VECTORS[name])


@every_vector
def test_a_vector_is_made_from_what_it_says(name: str) -> None:
    check_says(made(VECTORS[name]), VECTORS[name])


@every_vector
def test_a_vector_is_signed_alike(name: str) -> None:
    envelope = VECTORS[name]
    found = read(replace(envelope, signatures=()))

    seeds = {bytes(key(seed).verify_key): seed for seed in range(1, 6)}
    signatures = [OperatorKey(key(seeds[public_key])).sign(found) for public_key, _ in envelope.signatures]

    assert [(one.public_key, one.signature) for one in signatures] == list(envelope.signatures)
    if isinstance(found, IceEnvelope):
        assert found.with_signatures(signatures) == read(envelope)
    elif signatures:
        assert found.with_signature(*signatures) == read(envelope)


@every_vector
def test_an_envelope_is_a_value(name: str) -> None:
    found = read(VECTORS[name])

    for twin in (
        copy.copy(found),
        copy.deepcopy(found),
        type(found).from_text(found.to_text()),
        *(pickle.loads(pickle.dumps(found, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert (twin, hash(twin), repr(twin)) == (found, hash(found), repr(found))
    assert found != found.to_bytes()
    assert found.envelope_id.hex() in repr(found)
    for attribute in ("reason", "envelope_id", "another"):
        with pytest.raises(AttributeError):
            setattr(found, attribute, "x")


def test_envelopes_that_differ_anywhere_are_not_equal() -> None:
    found = {read(envelope) for envelope in VECTORS.values()}

    assert len(found) == len(VECTORS)


# ---------------------------------------------------------------- made by a caller

GOOD_ADMIN: dict[str, object] = {"event": events.Cordon(7), "cluster_id": b"prod-eu", "reason": "incident 42"}
GOOD_ICE: dict[str, object] = {
    "action": ThawCluster(),
    "blast_radius": blast_of(Blast(nodes=(1,))),
    "cluster_id": b"prod-eu",
    "reason": "incident 42",
}
BAD_CLUSTERS: Cases = [*BAD_BYTES, (b"", InvalidArgument), (bytes(256), InvalidArgument)]
BAD_REASONS: Cases = [*BAD_TEXTS, ("", InvalidArgument), ("r" * 1025, InvalidArgument), ("ä" * 513, InvalidArgument)]
BAD_IDS: Cases = [("x" * 16, TypeError), (16, TypeError), (b"", InvalidArgument), (bytes(15), InvalidArgument)]
OPTIONAL_MOMENTS: Cases = [(value, error) for value, error in BAD_MOMENTS if value is not None]
HALF: timedelta = timedelta(microseconds=500)


def test_an_ordinary_command_is_checked_when_it_is_made() -> None:
    check_refused(
        AdminEnvelope,
        GOOD_ADMIN,
        {
            "event": [
                *((value, TypeError) for value in (None, "cordon", events.Cordon, 7)),
                (events.Drain(7, HALF), InvalidArgument),
                (events.Drain(7, timedelta.max), InvalidArgument),
                (events.EnterMaintenance(7, MS + HALF), InvalidArgument),
                (events.DropReplicas(7, tuple(range(4097))), InvalidArgument),
            ],
            "cluster_id": BAD_CLUSTERS,
            "reason": BAD_REASONS,
            "envelope_id": BAD_IDS,
            "issued_at": OPTIONAL_MOMENTS,
            "not_after": [*OPTIONAL_MOMENTS, (EPOCH, InvalidArgument)],
            "signature": [(value, TypeError) for value in (b"x" * 64, (bytes(32), bytes(64)), 7)],
        },
    )


def test_a_break_glass_action_is_checked_when_it_is_made() -> None:
    signature = OperatorSignature(bytes(32), bytes(64))
    check_refused(
        IceEnvelope,
        GOOD_ICE,
        {
            "action": [
                *((value, TypeError) for value in (None, "thaw", ThawCluster, events.Cordon(7))),
                (FreezeCluster(HALF), InvalidArgument),
                (ForceRestartDaemon(DaemonRef(1, "n" * 256)), InvalidArgument),
            ],
            "blast_radius": [(value, TypeError) for value in (None, b"", ())],
            "cluster_id": BAD_CLUSTERS,
            "reason": BAD_REASONS,
            "threshold": [*BAD_INTS, (0, InvalidArgument), (65, InvalidArgument), (256, InvalidArgument)],
            "envelope_id": BAD_IDS,
            "issued_at": OPTIONAL_MOMENTS,
            "not_after": [*OPTIONAL_MOMENTS, (EPOCH, InvalidArgument)],
            "signatures": [
                *((value, TypeError) for value in (None, 7, [b"x"], signature)),
                ([signature] * 65, InvalidArgument),
            ],
        },
    )


def test_a_preview_that_does_not_fit_is_refused_when_it_is_made() -> None:
    daemons = tuple(DaemonRef(number, "n" * 255) for number in range(65_536))
    blast = replace(Blast(), nodes=())
    large = BlastRadius(
        affected_nodes=(),
        affected_replicas=(),
        affected_daemons=daemons,
        estimated_drain_delay=None,
        placement_churn_basis_points=0,
        warnings=(),
    )

    made(Ice({"kind": "thaw_cluster"}, blast))
    with pytest.raises(InvalidArgument, match="blast_radius: must fit"):
        IceEnvelope(**{**GOOD_ICE, "blast_radius": large})  # type: ignore[arg-type]


def test_a_break_glass_action_is_no_ordinary_command() -> None:
    for action in (ThawCluster(), KillMigration(7)):
        with pytest.raises(IceRequiresBundle) as caught:
            AdminEnvelope(event=action, cluster_id=b"prod-eu", reason="x")  # type: ignore[arg-type]
        assert caught.value.audit_seq is None


def test_what_is_not_said_is_fresh() -> None:
    before = datetime.now(UTC) - MS
    one, two = (AdminEnvelope(event=events.Cordon(7), cluster_id=b"c", reason="r") for _ in range(2))
    ice = IceEnvelope(**GOOD_ICE)  # type: ignore[arg-type]

    assert before <= one.issued_at <= datetime.now(UTC)
    assert one.not_after - one.issued_at == timedelta(minutes=5)
    assert len({one.envelope_id, two.envelope_id, ice.envelope_id, bytes(16)}) == 4
    assert (ice.threshold, ice.signatures) == (2, ())
    assert one.signature is None


def test_a_moment_is_cut_to_milliseconds() -> None:
    at = datetime(2026, 11, 21, 12, 0, 0, 123_999, tzinfo=UTC)
    envelope = AdminEnvelope(event=events.Cordon(7), cluster_id=b"c", reason="r", issued_at=at, not_after=at)

    assert envelope.issued_at == envelope.not_after == at.replace(microsecond=123_000)


def test_signatures_are_added_and_not_twice() -> None:
    envelope = read(UNSIGNED)
    assert isinstance(envelope, IceEnvelope)
    alice, bob = (OperatorKey(key(seed)).sign(envelope) for seed in (1, 2))

    one = envelope.with_signatures([alice])
    both = one.with_signatures(iter([alice, bob, bob]))

    assert (envelope.signatures, one.signatures, both.signatures) == ((), (alice,), (alice, bob))
    assert one.signing_bytes() == both.signing_bytes() == envelope.signing_bytes()
    for value in (None, 7, alice, [alice, b""]):
        with pytest.raises(TypeError, match="signatures"):
            envelope.with_signatures(value)  # type: ignore[arg-type]
    many = [OperatorSignature(bytes([index]) * 32, bytes(64)) for index in range(64)]
    assert len(envelope.with_signatures(many).signatures) == 64
    with pytest.raises(InvalidArgument, match="signatures"):
        envelope.with_signatures([*many, alice])


def test_an_ordinary_command_keeps_the_newest_signature() -> None:
    envelope = read(replace(ADMIN, signatures=()))
    assert isinstance(envelope, AdminEnvelope)
    alice, bob = (OperatorKey(key(seed)).sign(envelope) for seed in (1, 2))

    assert envelope.with_signature(alice).with_signature(bob).signature == bob
    for value in (None, b"", [alice]):
        with pytest.raises(TypeError, match="signature"):
            envelope.with_signature(value)  # type: ignore[arg-type]


def test_foreign_bytes_can_be_counter_signed() -> None:
    """What another program wrote without a reason may still be signed: the reader shows that there is none."""
    bare = replace(UNSIGNED, header=replace(Header(), reason=""), threshold=0)
    envelope = read(bare)
    assert isinstance(envelope, IceEnvelope)

    signed = envelope.with_signatures([OperatorKey(key(1)).sign(envelope)])

    assert signed == read(bare.signed(key(1)))


def test_commits_carry_envelopes() -> None:
    admin, ice = read(ADMIN), read(ICE)
    assert isinstance(admin, AdminEnvelope)
    assert isinstance(ice, IceEnvelope)

    for commit, twin in (
        (SignedAdminCommit(admin), SignedAdminCommit(admin)),
        (SignedIceCommit(ice), SignedIceCommit(ice)),
    ):
        assert (commit, hash(commit), repr(commit)) == (twin, hash(twin), repr(twin))
        assert pickle.loads(pickle.dumps(commit)) == commit
        assert type(commit).__match_args__ == ("envelope",)
    assert (SignedAdminCommit.kind, SignedIceCommit.kind) == ("signed_admin_commit", "signed_ice_commit")
    for cls, wrong in ((SignedAdminCommit, ice), (SignedIceCommit, admin), (SignedIceCommit, None)):
        with pytest.raises(TypeError, match="envelope"):
            cls(wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- properties

IDS = st.integers(0, 2**64 - 1)
SPANS = st.integers(0, 10**12)
REASONS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ASCENDING = st.lists(IDS, max_size=6, unique=True).map(sorted)
HEADERS = st.builds(
    lambda cluster, envelope, issued, spare, reason: Header(cluster, envelope, issued, issued + spare, reason),
    st.binary(min_size=1, max_size=40),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 10**14),
    st.integers(0, 10**12),
    REASONS,
)
NODE = {"node": IDS}
EVENTS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("enter_maintenance"), "drain_ms": st.none() | SPANS, **NODE}),
    st.fixed_dictionaries({"kind": st.just("drain"), "drain_ms": SPANS, **NODE}),
    st.fixed_dictionaries({"kind": st.just("drop_replicas"), "chains": st.lists(IDS, max_size=5), **NODE}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(sorted(set(envelopes.EVENTS) - {"enter_maintenance", "drain", "drop_replicas"})),
            **NODE,
        }
    ),
)
ACTIONS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("freeze_cluster"), "ttl_ms": SPANS}),
    st.just({"kind": "thaw_cluster"}),
    st.fixed_dictionaries({"kind": st.just("flush_avoid_lists"), "scope": st.just("local"), "node": IDS}),
    st.fixed_dictionaries({"kind": st.just("flush_avoid_lists"), "scope": st.just("on_peer"), "peer": IDS}),
    st.just({"kind": "flush_avoid_lists", "scope": "global"}),
    st.fixed_dictionaries({"kind": st.just("force_evict_replica"), "chain": IDS, "victim": IDS}),
    st.fixed_dictionaries({"kind": st.just("force_restart_daemon"), "daemon": IDS, "name": NAMES}),
    st.fixed_dictionaries({"kind": st.just("force_cutover"), "chain": IDS, "target": IDS}),
    st.fixed_dictionaries({"kind": st.just("kill_migration"), "migration": IDS}),
)
COUNTS = {kind: len(ids) for kind, ids in ICE.blast.warnings}
WARNED = st.sampled_from(sorted(COUNTS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(IDS, min_size=COUNTS[kind], max_size=COUNTS[kind]))
)
BLASTS = st.builds(
    Blast,
    nodes=ASCENDING,
    replicas=ASCENDING,
    daemons=ASCENDING.flatmap(lambda ids: st.tuples(*(st.tuples(st.just(one), NAMES) for one in ids))),
    delay_ms=st.none() | SPANS,
    churn=st.integers(0, 2**32 - 1),
    warnings=st.lists(WARNED, max_size=4),
)
SIGNATURES = st.lists(
    st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)), max_size=4, unique=True
)
ADMINS = st.builds(Admin, EVENTS, HEADERS, SIGNATURES.map(lambda pairs: pairs[:1]))
ICES = st.builds(Ice, ACTIONS, BLASTS, HEADERS, st.integers(1, 64), SIGNATURES)


@settings(deadline=None)
@given(ADMINS | ICES)
def test_both_programs_write_and_read_the_same(envelope: Admin | Ice) -> None:
    found = made(envelope)

    check_says(found, envelope)
    check_says(read(envelope), envelope)
    assert read(envelope) == found


@settings(deadline=None)
@given(ADMINS | ICES, st.data())
def test_one_changed_bit_is_refused_with_and_without_a_sum_that_fits(
    envelope: Admin | Ice, data: st.DataObject
) -> None:
    """Where only the sum protects, in ids and texts, a change that is sealed again is another envelope."""
    encoded = envelope.encode()
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    other = bytearray(encoded)
    other[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EnvelopeDecodeError):
        read(envelope, bytes(other))

    sealed = envelopes.resealed(bytes(other[:-4]))
    if sealed != encoded:
        try:
            found = read(envelope, sealed)
        except EnvelopeDecodeError:
            return
        assert found.to_bytes() == sealed
        assert found != read(envelope)
