"""`AdminVerifier`: which commands a node would obey, and why not. What needs a running loop is tested with the loop."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

import envelopes
from envelopes import Admin, Blast, Fields, Header, Ice, key, operator_id
from meshos.errors import (
    ConfigError,
    EnvelopeDecodeError,
    EnvelopeExpired,
    EnvelopeFromFuture,
    InsufficientSignatures,
    InvalidSpan,
    NotAuthorized,
    RoleDenied,
    SignatureInvalid,
    SimulationRequired,
    UnsignedRejected,
    VerifyError,
    WrongCluster,
)
from meshos.operator import AdminVerifier, OperatorKey, OperatorRegistry, OperatorSignature, Role
from orders import MS, moment, read
from records import BAD_BYTES, BAD_INTS, BAD_MOMENTS, BAD_SPANS, check_refused

NOW: Final = moment(Header().issued_at_ms)
SECOND = timedelta(seconds=1)
ALICE, BOB, CAROL, DAVE, MALLORY = (key(seed) for seed in (1, 2, 3, 4, 9))
FREEZE, CORDON = envelopes.ice_vectors()["freeze_cluster"], envelopes.admin_vectors()["cordon"]


def id_of(key: SigningKey) -> int:
    return operator_id(bytes(key.verify_key))


def registry() -> OperatorRegistry:
    """Alice may do everything, Bob and Carol break glass, Dave looks, nobody knows Mallory."""
    made = OperatorRegistry()
    made.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    made.add(BOB.verify_key, name="bob", roles=[Role.ICE])
    made.add(CAROL.verify_key, name="carol", roles=[Role.ICE])
    made.add(DAVE.verify_key, name="dave", roles=[Role.VIEWER])
    return made


def verifier(**options: Any) -> AdminVerifier:
    return AdminVerifier(options.pop("operators", registry()), **{"cluster_id": b"prod-eu", **options})


VERIFIER = verifier()


def obeyed(envelope: Admin | Ice, *, by: AdminVerifier = VERIFIER, at: datetime = NOW) -> None:
    assert by.verify(read(envelope), now=at) is None  # type: ignore[func-returns-value]


def refused(envelope: Admin | Ice, *, by: AdminVerifier = VERIFIER, at: datetime = NOW) -> VerifyError:
    with pytest.raises(VerifyError) as caught:
        by.verify(read(envelope), now=at)
    assert caught.value.audit_seq is None
    return caught.value


def bundle(*keys: SigningKey) -> Ice:
    return FREEZE.signed(*keys)


# ---------------------------------------------------------------- distinct operators


def test_enough_distinct_operators_are_enough() -> None:
    obeyed(bundle(ALICE, BOB))
    obeyed(bundle(CAROL, BOB, ALICE))
    obeyed(CORDON.signed(ALICE))


@pytest.mark.parametrize("keys", [(), (ALICE,), (ALICE, ALICE), (BOB,) * 64], ids=len)
def test_one_operator_is_one_however_often_they_sign(keys: Sequence[SigningKey]) -> None:
    """M-1: what counts are distinct operators, never signatures."""
    error = refused(bundle(*keys))

    assert isinstance(error, InsufficientSignatures)
    assert (error.got, error.required) == (min(1, len(keys)), 2)


def test_one_key_has_one_name() -> None:
    """No two entries of a registry are the same person: the id follows from the key."""
    operators = registry()

    with pytest.raises(ValueError, match="key: "):
        operators.add(ALICE.verify_key, name="alice again", roles=[Role.ICE])
    assert isinstance(refused(bundle(ALICE, ALICE), by=verifier(operators=operators)), InsufficientSignatures)


def test_a_bad_signature_beside_enough_good_ones_is_passed_over() -> None:
    good = bundle(ALICE, BOB).signatures
    forged = (bytes(CAROL.verify_key), bytes(64))
    stranger = bundle(MALLORY).signatures[0]

    obeyed(replace(FREEZE, signatures=[forged, *good, stranger]))
    obeyed(bundle(DAVE, ALICE, BOB))


def test_with_too_few_good_ones_the_first_bad_one_is_named() -> None:
    for other, expected in ((MALLORY, NotAuthorized), (DAVE, RoleDenied)):
        error = refused(bundle(ALICE, other))
        assert isinstance(error, expected)
        assert error.operator_id == id_of(other)
    forged = refused(replace(FREEZE, signatures=[*bundle(ALICE).signatures, (bytes(BOB.verify_key), bytes(64))]))
    assert isinstance(forged, SignatureInvalid)
    assert forged.operator_id == id_of(BOB)


def test_the_higher_threshold_holds() -> None:
    for envelope, verifier_, required in (
        (replace(FREEZE, threshold=3), VERIFIER, 3),
        (replace(FREEZE, threshold=1), verifier(ice_threshold=3), 3),
        (replace(FREEZE, threshold=64), VERIFIER, 64),
    ):
        error = refused(envelope.signed(ALICE, BOB), by=verifier_)
        assert isinstance(error, InsufficientSignatures)
        assert (error.got, error.required) == (2, required)
    obeyed(replace(FREEZE, threshold=1).signed(ALICE), by=verifier(ice_threshold=1))
    assert isinstance(
        refused(replace(FREEZE, threshold=0).signed(), by=verifier(ice_threshold=1)), InsufficientSignatures
    )


def test_sixty_four_signatures_are_looked_at() -> None:
    """M-2: more have no encoding, so that nobody is kept busy with them."""
    strangers = [(bytes([index]) * 32, bytes(64)) for index in range(62)]

    obeyed(replace(FREEZE, signatures=[*strangers, *bundle(ALICE, BOB).signatures]))


# ---------------------------------------------------------------- what is signed


def test_signatures_hold_for_what_was_signed_and_nothing_else() -> None:
    signatures = bundle(ALICE, BOB).signatures
    other: Fields = {"kind": "freeze_cluster", "ttl_ms": 300_001}
    header = FREEZE.header
    for changed in (
        replace(FREEZE, action=other),
        replace(FREEZE, action={"kind": "thaw_cluster"}),
        replace(FREEZE, blast=replace(FREEZE.blast, nodes=(2, 3, 4))),
        replace(FREEZE, blast=replace(FREEZE.blast, warnings=())),
        replace(FREEZE, threshold=1),
        replace(FREEZE, header=replace(header, reason="incident 43")),
        replace(FREEZE, header=replace(header, envelope_id=bytes(16))),
        replace(FREEZE, header=replace(header, issued_at_ms=header.issued_at_ms + 1)),
        replace(FREEZE, header=replace(header, not_after_ms=header.not_after_ms + 1)),
    ):
        assert isinstance(refused(replace(changed, signatures=signatures), at=NOW + MS), SignatureInvalid)


def test_a_signature_of_one_kind_does_not_hold_for_the_other() -> None:
    """M-6: ordinary and break-glass commands are signed in domains of their own."""
    of_ice = bundle(ALICE).signatures
    of_admin = CORDON.signed(ALICE, BOB).signatures

    assert isinstance(refused(replace(CORDON, signatures=of_ice)), SignatureInvalid)
    assert isinstance(refused(replace(FREEZE, signatures=of_admin)), SignatureInvalid)


def test_a_signature_has_one_form() -> None:
    """The group's order added to the second half gives the same point, and is refused."""
    order = 2**252 + 27742317777372353535851937790883648493
    (public_key, signature), other = bundle(ALICE, BOB).signatures
    second = int.from_bytes(signature[32:], "little") + order
    forms = [signature[:32] + second.to_bytes(32, "little"), signature[32:] + signature[:32], bytes(64)]

    for form in forms:
        error = refused(replace(FREEZE, signatures=[(public_key, form), other]))
        assert isinstance(error, SignatureInvalid)
        assert error.operator_id == id_of(ALICE)


def test_swapped_signatures_do_not_hold() -> None:
    (alice, first), (bob, second) = bundle(ALICE, BOB).signatures

    assert isinstance(refused(replace(FREEZE, signatures=[(alice, second), (bob, first)])), SignatureInvalid)


def test_another_cluster_is_another_command() -> None:
    staging = replace(FREEZE, header=replace(FREEZE.header, cluster_id=b"staging"))
    signed = staging.signed(ALICE, BOB)

    assert isinstance(refused(signed), WrongCluster)
    obeyed(signed, by=verifier(cluster_id=b"staging"))
    assert isinstance(refused(replace(FREEZE, signatures=signed.signatures)), SignatureInvalid)
    admin = replace(CORDON, header=replace(CORDON.header, cluster_id=b"")).signed(ALICE)
    assert isinstance(refused(admin), WrongCluster)


def test_nobody_is_obeyed_who_did_not_look() -> None:
    """M-7: without a preview nothing is obeyed, however many have signed."""
    blind = replace(FREEZE, blast=Blast())

    assert isinstance(refused(blind.signed(ALICE, BOB, CAROL)), SimulationRequired)
    assert isinstance(refused(blind), SimulationRequired)


@pytest.mark.parametrize(
    ("ttl_ms", "good"), [(0, False), (999, False), (1000, True), (86_400_000, True), (86_400_001, False)]
)
def test_a_freeze_has_bounds(ttl_ms: int, good: bool) -> None:
    envelope = replace(FREEZE, action={"kind": "freeze_cluster", "ttl_ms": ttl_ms}).signed(ALICE, BOB)

    if good:
        obeyed(envelope)
    else:
        assert isinstance(refused(envelope), InvalidSpan)


def test_a_span_at_its_end_is_refused_and_nothing_else() -> None:
    envelope = replace(FREEZE, action={"kind": "freeze_cluster", "ttl_ms": 2**64 - 1}).signed(ALICE, BOB)

    assert isinstance(refused(envelope), InvalidSpan)


def test_an_unsigned_command_is_refused() -> None:
    assert isinstance(refused(replace(CORDON, signatures=())), UnsignedRejected)


# ---------------------------------------------------------------- roles and keys


def test_a_role_is_needed() -> None:
    for signer, role in ((BOB, Role.ADMIN), (DAVE, Role.ADMIN)):
        error = refused(CORDON.signed(signer))
        assert isinstance(error, RoleDenied)
        assert (error.operator_id, error.role) == (id_of(signer), role)
    error = refused(bundle(BOB, DAVE))
    assert isinstance(error, RoleDenied)
    assert (error.operator_id, error.role) == (id_of(DAVE), Role.ICE)


def test_a_revoked_operator_is_nobody() -> None:
    operators = registry()
    by = verifier(operators=operators)
    obeyed(bundle(ALICE, BOB), by=by)

    operators.revoke(id_of(BOB))

    error = refused(bundle(ALICE, BOB), by=by)
    assert isinstance(error, NotAuthorized)
    assert error.operator_id == id_of(BOB)
    obeyed(bundle(ALICE, CAROL), by=by)


def test_a_rotated_key_takes_the_place_of_the_old_one() -> None:
    operators = registry()
    by = verifier(operators=operators)

    assert operators.rotate(id_of(BOB), MALLORY.verify_key) == id_of(MALLORY)

    obeyed(bundle(ALICE, MALLORY), by=by)
    assert isinstance(refused(bundle(ALICE, BOB), by=by), NotAuthorized)


def test_an_operator_has_a_time() -> None:
    operators = registry()
    operators.add(MALLORY.verify_key, name="mallory", roles=[Role.ADMIN], not_before=NOW, not_after=NOW + SECOND)
    by = verifier(operators=operators)
    command = CORDON.signed(MALLORY)

    obeyed(command, by=by)
    obeyed(command, by=by, at=NOW + SECOND)
    for at in (NOW - MS, NOW + SECOND + MS):
        assert isinstance(refused(command, by=by, at=at), NotAuthorized)


# ---------------------------------------------------------------- time


def test_times_are_checked_to_the_millisecond() -> None:
    long = replace(FREEZE.header, not_after_ms=FREEZE.header.issued_at_ms + 10_000_000)
    for envelope, checked in (
        (replace(FREEZE, header=long).signed(ALICE, BOB), VERIFIER),
        (replace(CORDON, header=long).signed(ALICE), VERIFIER),
        (bundle(ALICE, BOB), verifier(freshness_window=timedelta(minutes=5))),
    ):
        obeyed(envelope, by=checked, at=NOW + timedelta(minutes=5))
        expired = refused(envelope, by=checked, at=NOW + timedelta(minutes=5) + MS)
        assert isinstance(expired, EnvelopeExpired)
        assert (expired.issued_at, expired.not_after) == (NOW, moment(envelope.header.not_after_ms))
        obeyed(envelope, by=checked, at=NOW - timedelta(seconds=30))
        early = refused(envelope, by=checked, at=NOW - timedelta(seconds=30) - MS)
        assert isinstance(early, EnvelopeFromFuture)
        assert early.issued_at == NOW


def test_an_envelope_is_void_by_its_own_word() -> None:
    short = replace(FREEZE.header, not_after_ms=FREEZE.header.issued_at_ms + 10)
    envelope = replace(FREEZE, header=short).signed(ALICE, BOB)

    obeyed(envelope, at=NOW + 10 * MS)
    assert isinstance(refused(envelope, at=NOW + 11 * MS), EnvelopeExpired)


@pytest.mark.parametrize("days", [-1, 1, 10_000], ids=str)
def test_a_clock_that_jumps_refuses(days: int) -> None:
    expected = EnvelopeExpired if days > 0 else EnvelopeFromFuture

    assert isinstance(refused(bundle(ALICE, BOB), at=NOW + timedelta(days=days)), expected)


def test_windows_are_those_that_were_given() -> None:
    wide = verifier(freshness_window=timedelta(hours=24), future_skew=timedelta(hours=1))
    narrow = verifier(freshness_window=SECOND, future_skew=timedelta(0))
    header = replace(FREEZE.header, not_after_ms=FREEZE.header.issued_at_ms + 10**9)
    envelope = replace(FREEZE, header=header).signed(ALICE, BOB)

    for at in (NOW + timedelta(hours=24), NOW - timedelta(hours=1)):
        obeyed(envelope, by=wide, at=at)
    for at in (NOW + SECOND, NOW):
        obeyed(envelope, by=narrow, at=at)
    for by, at in ((wide, NOW + timedelta(hours=24) + MS), (narrow, NOW + SECOND + MS)):
        assert isinstance(refused(envelope, by=by, at=at), EnvelopeExpired)
    for by, at in ((wide, NOW - timedelta(hours=1) - MS), (narrow, NOW - MS)):
        assert isinstance(refused(envelope, by=by, at=at), EnvelopeFromFuture)


def test_without_a_time_it_is_now() -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    header = replace(Header(), issued_at_ms=now, not_after_ms=now + 60_000)

    VERIFIER.verify(read(replace(CORDON, header=header).signed(ALICE)))
    with pytest.raises(EnvelopeExpired):
        VERIFIER.verify(read(CORDON.signed(ALICE)))


def test_times_at_their_ends_are_refused_and_nothing_else() -> None:
    for issued, not_after in ((0, 2**64 - 1), (2**64 - 1, 2**64 - 1), (2**64 - 1, 0)):
        header = replace(FREEZE.header, issued_at_ms=issued, not_after_ms=not_after)
        assert isinstance(
            refused(replace(FREEZE, header=header).signed(ALICE, BOB)), EnvelopeExpired | EnvelopeFromFuture
        )


# ---------------------------------------------------------------- asking


def test_asking_has_no_effect() -> None:
    """No cooldown begins, and no id is used up."""
    by = verifier()

    for _ in range(3):
        obeyed(bundle(ALICE, BOB), by=by)
    obeyed(replace(FREEZE, header=replace(FREEZE.header, envelope_id=bytes(16))).signed(ALICE, BOB), by=by)


def test_the_order_of_checks() -> None:
    """The cluster comes before the times, those before the preview and the signatures."""
    bare = replace(FREEZE, blast=Blast(), header=replace(FREEZE.header, cluster_id=b"x"))
    late = NOW + timedelta(days=1)

    assert isinstance(refused(bare, at=late), WrongCluster)
    assert isinstance(refused(replace(bare, header=FREEZE.header), at=late), EnvelopeExpired)
    assert isinstance(refused(replace(bare, header=FREEZE.header)), SimulationRequired)
    assert isinstance(refused(replace(FREEZE, signatures=())), InsufficientSignatures)


def test_threads_ask_while_operators_change() -> None:
    operators = registry()
    by = verifier(operators=operators)
    envelope = read(bundle(ALICE, BOB))
    seen: set[type[VerifyError] | None] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                by.verify(envelope, now=NOW)
                seen.add(None)
            except VerifyError as error:
                seen.add(type(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    last = id_of(BOB)
    for seed in range(20, 120):
        last = operators.rotate(last, key(seed).verify_key)
    stop.set()
    for thread in threads:
        thread.join()

    assert seen <= {None, NotAuthorized}


def test_arguments_are_checked() -> None:
    for value in (None, b"", "envelope", read, VERIFIER):
        with pytest.raises(TypeError, match="envelope must be an IceEnvelope or an AdminEnvelope"):
            VERIFIER.verify(value)  # type: ignore[arg-type]
    check_refused(
        lambda now: VERIFIER.verify(read(bundle(ALICE, BOB)), now=now),
        {"now": NOW},
        {"now": [(value, error) for value, error in BAD_MOMENTS if value is not None]},
    )


def test_errors_can_be_told_apart_by_kind() -> None:
    kinds = {
        error.kind
        for error in (
            refused(CORDON.signed(MALLORY)),
            refused(replace(CORDON, signatures=())),
            refused(CORDON.signed(BOB)),
            refused(replace(CORDON, signatures=bundle(ALICE).signatures)),
            refused(bundle(ALICE)),
            refused(bundle(ALICE, BOB), at=NOW + timedelta(days=1)),
            refused(bundle(ALICE, BOB), at=NOW - timedelta(days=1)),
            refused(replace(FREEZE, header=replace(FREEZE.header, cluster_id=b"x"))),
            refused(replace(FREEZE, blast=Blast())),
        )
    }

    assert kinds == {
        "not_authorized",
        "unsigned_rejected",
        "role_denied",
        "signature_invalid",
        "insufficient_signatures",
        "envelope_expired",
        "envelope_from_future",
        "wrong_cluster",
        "simulation_required",
    }


# ---------------------------------------------------------------- options


def config_error(call: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value


def test_options_are_what_was_given() -> None:
    by = verifier()
    assert (by.cluster_id, by.ice_threshold) == (b"prod-eu", 2)
    assert (by.freshness_window, by.future_skew, by.ice_cooldown) == (300 * SECOND, 30 * SECOND, 300 * SECOND)
    by = verifier(ice_threshold=3, freshness_window=SECOND, future_skew=MS, ice_cooldown=timedelta(days=7))
    assert by.ice_threshold == 3
    assert (by.freshness_window, by.future_skew, by.ice_cooldown) == (SECOND, MS, timedelta(days=7))
    assert repr(by) == "<AdminVerifier of cluster prod-eu: threshold 3>"
    assert "\x1b" not in repr(verifier(cluster_id=b"\x1b[2J"))
    for name in ("cluster_id", "ice_threshold", "freshness_window"):
        with pytest.raises(AttributeError):
            setattr(by, name, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster_id", b""),
        ("cluster_id", bytes(256)),
        *(("ice_threshold", value) for value in (0, 4, 64, 65, 255, 256, 2**64 - 1, -1, 2**64)),
        *(
            ("freshness_window", value)
            for value in (timedelta(0), SECOND - MS, timedelta(hours=24) + MS, timedelta.max)
        ),
        *(("future_skew", value) for value in (-MS, timedelta(hours=1) + MS, timedelta.max)),
        *(("ice_cooldown", value) for value in (-MS, timedelta(days=7) + MS, timedelta.max)),
    ],
)
def test_an_option_out_of_range_is_named(field: str, value: object) -> None:
    assert config_error(lambda: verifier(**{field: value})).field == field


def test_too_few_operators_for_the_threshold_are_told() -> None:
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(DAVE.verify_key, name="dave", roles=[Role.ADMIN, Role.VIEWER])

    error = config_error(lambda: verifier(operators=operators))
    assert (error.field, "role ice" in str(error)) == ("ice_threshold", True)
    verifier(operators=operators, ice_threshold=1)
    assert config_error(lambda: verifier(operators=OperatorRegistry(), ice_threshold=1)).field == "ice_threshold"


def test_options_of_a_wrong_type_are_refused() -> None:
    good: dict[str, object] = {"operators": registry(), "cluster_id": b"prod-eu"}
    check_refused(
        AdminVerifier,
        good,
        {
            "operators": [(value, TypeError) for value in (None, (), "operators", OperatorRegistry)],
            "cluster_id": BAD_BYTES,
            "ice_threshold": [(value, error) for value, error in BAD_INTS if error is TypeError],
            **{
                name: [(value, error) for value, error in BAD_SPANS if error is TypeError]
                for name in ("freshness_window", "future_skew", "ice_cooldown")
            },
        },
    )
    with pytest.raises(TypeError):
        AdminVerifier(registry(), b"prod-eu")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        AdminVerifier(registry(), cluster_id=b"prod-eu", treshold=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        type("Mine", (AdminVerifier,), {})


# ---------------------------------------------------------------- properties


@settings(deadline=None)
@given(st.data())
def test_one_changed_bit_of_what_is_signed_is_refused(data: st.DataObject) -> None:
    """Under the same signatures, with hash and sum made to fit: it is unreadable, or refused."""
    choices: list[Admin | Ice] = [bundle(ALICE, BOB), CORDON.signed(ALICE)]
    envelope = data.draw(st.sampled_from(choices))
    signed = envelope.signing_bytes()
    bit = data.draw(st.integers(0, 8 * len(signed) - 1))
    other = bytearray(signed)
    other[bit // 8] ^= 1 << bit % 8
    blast = envelope.blast.encode() if isinstance(envelope, Ice) else b""

    try:
        changed = read(envelope, envelopes.file_bytes(bytes(other), blast, envelope.signatures))
    except EnvelopeDecodeError:
        return
    with pytest.raises(VerifyError):
        VERIFIER.verify(changed, now=changed.issued_at)


@settings(deadline=None)
@given(st.permutations([ALICE, BOB, CAROL, DAVE, MALLORY]), st.integers(0, 5), st.integers(1, 3))
def test_who_is_obeyed_is_who_has_enough_good_signatures(keys: list[SigningKey], count: int, threshold: int) -> None:
    signers = keys[:count]
    good = sum(signer in (ALICE, BOB, CAROL) for signer in signers)
    by = verifier(ice_threshold=threshold)
    envelope = replace(FREEZE, threshold=1).signed(*signers)

    if good >= threshold:
        obeyed(envelope, by=by)
    else:
        error = refused(envelope, by=by)
        assert isinstance(error, InsufficientSignatures | NotAuthorized | RoleDenied)
        if isinstance(error, InsufficientSignatures):
            assert (error.got, error.required) == (good, threshold)


def test_a_key_of_an_operator_signs_what_the_verifier_accepts() -> None:
    envelope = read(replace(CORDON, signatures=()))
    signature = OperatorKey(ALICE).sign(envelope)

    assert signature == OperatorSignature(*CORDON.signed(ALICE).signatures[0])
