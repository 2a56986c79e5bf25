"""Permission tokens: made and checked by two programs, and refused for every reason there is."""

import copy
import itertools
import pickle
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.channel import ChannelName, ChannelPolicy, PermissionToken, Right
from meshos.errors import ChannelNameError, ConfigError, InvalidArgument, TokenError
from meshos.identity import EntityId, Identity
from records import ALICE, BAD_BYTES, BAD_ENTITIES, BAD_MOMENTS, BOB, CAROL, check_record, check_refused

KEYS = [SigningKey(bytes([number]) * 32) for number in range(1, 11)]
IDS = [reference.entity_id(key) for key in KEYS]
ALARMS = ChannelName("plant/alarms")
HOUR, SECOND, MS = timedelta(hours=1), timedelta(seconds=1), timedelta(milliseconds=1)
ALL = frozenset(Right)
BEGIN_MS = 1_767_225_600_000
BEGIN = datetime.fromtimestamp(BEGIN_MS / 1000, UTC)
SPAN = (BEGIN_MS, BEGIN_MS + 3_600_000)


def issued(
    rights: Collection[Right] = ALL, channel: ChannelName | None = ALARMS, delegations: int = 7, ttl: timedelta = HOUR
) -> PermissionToken:
    """A root of Alice for Bob."""
    return PermissionToken.issue(
        ALICE, subject=BOB.entity_id, channel=channel, rights=rights, ttl=ttl, delegations=delegations
    )


def check(
    token: PermissionToken,
    presenter: EntityId = BOB.entity_id,
    right: Right = Right.SUBSCRIBE,
    channel: ChannelName = ALARMS,
    now: datetime | None = None,
    roots: Collection[EntityId] = (ALICE.entity_id,),
) -> None:
    token.verify(roots=roots, right=right, channel=channel, presenter=presenter, now=now)


def refused(act: Callable[[], object]) -> tuple[str, int | None]:
    with pytest.raises(TokenError) as raised:
        act()
    return raised.value.kind, raised.value.grant


def made(*changes: dict[str, object], grants: int = 1) -> bytes:
    """A token of another program, with changes to the last grants."""
    parts: list[bytes] = []
    for number in range(grants):
        fields: dict[str, object] = {
            "issuer": KEYS[number],
            "subject": IDS[number + 1],
            "channel": "plant/alarms",
            "rights": tuple(reference.RIGHTS),
            "delegations": 7 - number,
            "span_ms": SPAN,
            "nonce": bytes([number]) * 16,
            "parent": reference.grant_digest(parts[-1]) if parts else reference.ZERO,
        }
        change = number - grants + len(changes)
        parts.append(reference.grant(**(fields | (changes[change] if change >= 0 else {}))))  # type: ignore[arg-type]
    return reference.token(*parts)


# ---------------------------------------------------------------- two programs agree


@given(
    st.none() | st.sampled_from(["a", "a/b", "plant/alarms"]),
    st.sets(st.sampled_from(list(Right)), min_size=1),
    st.integers(0, 7),
    st.integers(1000, 365 * 86_400_000),
)
def test_what_is_issued_is_what_another_program_signs(
    channel: str | None, rights: set[Right], delegations: int, ttl_ms: int
) -> None:
    name = None if channel is None else ChannelName(channel)

    token = issued(rights, name, delegations, timedelta(milliseconds=ttl_ms))

    data = token.to_bytes()
    begin = int.from_bytes(data[68:76], "little")
    nonce = data[84:100]
    assert data == reference.token(
        reference.grant(KEYS[0], IDS[1], channel, rights, delegations, (begin, begin + ttl_ms), nonce)
    )
    assert (token.issuer, token.subject, token.channel) == (ALICE.entity_id, BOB.entity_id, name)
    assert (token.rights, token.delegations, len(token.parents)) == (frozenset(rights), delegations, 0)
    assert token.not_after - token.not_before == timedelta(milliseconds=ttl_ms)
    assert abs(datetime.now(UTC) - token.not_before) < timedelta(minutes=1)
    for right in Right:
        if right in rights:
            check(token, right=right, channel=name or ALARMS)
        else:
            assert refused(lambda right=right: check(token, right=right)) == ("not_authorized", 0)  # type: ignore[misc]


def test_what_is_passed_on_is_what_another_program_signs() -> None:
    root = issued()

    token = root.delegate(BOB, subject=CAROL.entity_id, rights=[Right.SUBSCRIBE])

    first, data = root.to_bytes()[2:], token.to_bytes()
    assert data[2 : 2 + len(first)] == first
    second = data[2 + len(first) :]
    span = (int.from_bytes(second[66:74], "little"), int.from_bytes(second[74:82], "little"))
    parent = reference.grant_digest(first)
    assert second == reference.grant(KEYS[1], IDS[2], "plant/alarms", ["subscribe"], 6, span, second[82:98], parent)
    assert token.parents == (root,)
    assert (token.issuer, token.subject, token.delegations) == (BOB.entity_id, CAROL.entity_id, 6)
    assert token.rights == {Right.SUBSCRIBE}
    assert token.not_after == root.not_after
    assert token.not_before >= root.not_before
    check(token, CAROL.entity_id)
    assert refused(lambda: check(token, CAROL.entity_id, Right.PUBLISH)) == ("not_authorized", 1)
    assert refused(lambda: check(token, BOB.entity_id)) == ("not_authorized", 1)


@pytest.mark.parametrize("grants", range(1, 9))
def test_what_another_program_signs_is_obeyed(grants: int) -> None:
    data = made(grants=grants)

    token = PermissionToken.from_bytes(data)

    assert token.to_bytes() == data
    assert len(token.parents) == grants - 1
    assert [parent.subject for parent in token.parents] == IDS[1:grants]
    assert token.delegations == 8 - grants
    check(token, EntityId(IDS[grants]), now=BEGIN)
    check(token, EntityId(IDS[grants]), now=BEGIN + HOUR - MS)


# ---------------------------------------------------------------- what is refused

WRONG: list[tuple[str, dict[str, object], str]] = [
    ("another signs", {"issuer": KEYS[8]}, "not_authorized"),
    ("another grant before it", {"parent": bytes(32)}, "not_authorized"),
    ("every channel", {"channel": None}, "not_authorized"),
    ("another channel", {"channel": "plant/other"}, "not_authorized"),
    ("a channel below", {"channel": "plant/alarms/fire"}, "not_authorized"),
    ("begins earlier", {"span_ms": (BEGIN_MS - 1, SPAN[1])}, "not_authorized"),
    ("ends later", {"span_ms": (BEGIN_MS, SPAN[1] + 1)}, "not_authorized"),
    ("as many delegations", {"delegations": 7}, "delegation_exhausted"),
    ("no time at all", {"span_ms": (BEGIN_MS, BEGIN_MS)}, "expired"),
    ("no time before its end", {"span_ms": (BEGIN_MS + 2, BEGIN_MS + 1)}, "not_yet_valid"),
]


@pytest.mark.parametrize(("change", "kind"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_no_grant_gives_what_the_one_before_it_has_not(change: dict[str, object], kind: str) -> None:
    token = PermissionToken.from_bytes(made(change, grants=2))
    assert refused(lambda: check(token, CAROL.entity_id, now=BEGIN)) == (kind, 1)


@pytest.mark.parametrize("missing", list(Right))
def test_no_grant_has_a_right_that_the_one_before_it_lacks(missing: Right) -> None:
    rights = ALL - {missing}

    token = PermissionToken.from_bytes(made({"rights": rights}, {"rights": ALL}, grants=2))

    kind = "delegation_not_allowed" if missing is Right.DELEGATE else "not_authorized"
    right = Right.PUBLISH if missing is Right.SUBSCRIBE else Right.SUBSCRIBE
    assert refused(lambda: check(token, CAROL.entity_id, right, now=BEGIN)) == (kind, 1)


def test_who_is_trusted_is_asked() -> None:
    token = issued()

    assert refused(lambda: check(token, roots=())) == ("not_authorized", 0)
    assert refused(lambda: check(token, roots=[BOB.entity_id])) == ("not_authorized", 0)
    check(token, roots=iter([BOB.entity_id, ALICE.entity_id]))  # type: ignore[arg-type]


def test_a_token_is_of_its_subject_and_of_nobody_else() -> None:
    assert refused(lambda: check(issued(), CAROL.entity_id)) == ("not_authorized", 0)


def test_a_channel_is_that_one_and_every_channel_is_said() -> None:
    for text in ("plant/alarms/fire", "plant", "plant/alarm", "a"):
        name = ChannelName(text)
        assert refused(lambda name=name: check(issued(), channel=name)) == ("not_authorized", 0)  # type: ignore[misc]
        check(issued(channel=None), channel=name)


def test_the_end_is_the_first_instant_that_is_not_permitted() -> None:
    token = PermissionToken.from_bytes(made())

    check(token, now=token.not_before)
    check(token, now=token.not_after - MS)
    assert refused(lambda: check(token, now=token.not_after)) == ("expired", 0)
    assert refused(lambda: check(token, now=token.not_before - MS)) == ("not_yet_valid", 0)
    assert refused(lambda: check(token)) == ("expired", 0)


@pytest.mark.parametrize(
    ("ttl", "kind"),
    [
        (timedelta(0), "zero_ttl"),
        (-SECOND, "zero_ttl"),
        (timedelta.min, "zero_ttl"),
        (SECOND - timedelta(microseconds=1), "zero_ttl"),
        (timedelta(days=365, microseconds=1), "ttl_too_long"),
        (timedelta.max, "ttl_too_long"),
    ],
)
def test_spans_are_bounded_when_a_token_is_issued(ttl: timedelta, kind: str) -> None:
    assert refused(lambda: issued(ttl=ttl)) == (kind, 0)


def test_the_shortest_and_the_longest_span_are_good() -> None:
    for ttl in (SECOND, timedelta(days=365)):
        token = issued(ttl=ttl)
        assert token.not_after - token.not_before == ttl


def test_spans_are_bounded_when_a_token_comes_in() -> None:
    day = 86_400_000
    long = PermissionToken.from_bytes(made({"span_ms": (BEGIN_MS, BEGIN_MS + 365 * day + 1)}))
    short = PermissionToken.from_bytes(made({"span_ms": (BEGIN_MS, BEGIN_MS + 999)}))

    assert refused(lambda: check(long, now=BEGIN)) == ("ttl_too_long", 0)
    assert refused(lambda: check(long, now=long.not_after)) == ("expired", 0)
    assert refused(lambda: check(short, now=BEGIN)) == ("zero_ttl", 0)


def test_a_token_is_passed_on_as_often_as_it_says() -> None:
    identities = [Identity.from_seed(bytes([number]) * 32) for number in range(2, 11)]
    token = issued(delegations=7)

    for holder, subject in itertools.pairwise(identities[:8]):
        token = token.delegate(holder, subject=subject.entity_id)

    check(token, identities[7].entity_id)
    assert (token.delegations, len(token.parents), len(token.to_bytes()) < 3700) == (0, 7, True)
    again = lambda: token.delegate(identities[7], subject=identities[8].entity_id)  # noqa: E731
    assert refused(again) == ("delegation_exhausted", 7)


def test_passing_on_is_refused_where_it_must_be() -> None:
    carol = CAROL.entity_id
    assert refused(lambda: issued(delegations=0).delegate(BOB, subject=carol)) == ("delegation_exhausted", 0)
    without = issued([Right.SUBSCRIBE], delegations=1)
    assert refused(lambda: without.delegate(BOB, subject=carol)) == ("delegation_not_allowed", 0)
    for holder in (ALICE, CAROL):
        assert refused(lambda holder=holder: issued().delegate(holder, subject=carol)) == ("not_authorized", 0)  # type: ignore[misc]
    few = issued([Right.SUBSCRIBE, Right.DELEGATE])
    more = lambda: few.delegate(BOB, subject=carol, rights=[Right.PUBLISH])  # noqa: E731
    assert refused(more) == ("not_authorized", 0)
    public = Identity.public_only(BOB.entity_id)
    assert refused(lambda: issued().delegate(public, subject=carol)) == ("read_only", 1)
    past = PermissionToken.from_bytes(made())
    assert refused(lambda: past.delegate(BOB, subject=carol)) == ("expired", 0)


def test_a_public_half_issues_nothing() -> None:
    public = Identity.public_only(ALICE.entity_id)
    issue = lambda: PermissionToken.issue(  # noqa: E731
        public, subject=BOB.entity_id, channel=None, rights=ALL, ttl=HOUR
    )
    assert refused(issue) == ("read_only", 0)


@pytest.mark.parametrize("grants", [1, 2])
def test_no_flipped_bit_permits(grants: int) -> None:
    data = made(grants=grants)
    presenter = EntityId(IDS[grants])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(TokenError):
            check(PermissionToken.from_bytes(flipped), presenter, now=BEGIN)


def test_a_changed_field_is_a_bad_signature() -> None:
    data = bytearray(made(grants=2))
    data[-80] ^= 1
    kind, grant = refused(lambda: check(PermissionToken.from_bytes(data), CAROL.entity_id, now=BEGIN))
    assert (kind, grant) in {("invalid_signature", 1), ("invalid_format", None)}
    data = bytearray(made())
    data[90] ^= 1
    assert refused(lambda: check(PermissionToken.from_bytes(data), now=BEGIN)) == ("invalid_signature", 0)


def test_bytes_are_exact() -> None:
    data = made(grants=2)
    for length in range(len(data)):
        assert refused(lambda length=length: PermissionToken.from_bytes(data[:length])) == ("invalid_format", None)  # type: ignore[misc]
    for longer in (data + b"\0", data + data):
        assert refused(lambda longer=longer: PermissionToken.from_bytes(longer)) == ("invalid_format", None)  # type: ignore[misc]
    changes = {0: (0, 2), 1: (0, 1, 3, 9), 2: (0, 16), 3: (8, 255), 132: (2, 255), 133: (0, 255), 134: (ord("P"), 0xFF)}
    for at, values in changes.items():
        for value in values:
            changed = bytes([*data[:at], value, *data[at + 1 :]])
            assert refused(lambda changed=changed: PermissionToken.from_bytes(changed)) == ("invalid_format", None)  # type: ignore[misc]


@given(st.binary(max_size=600))
def test_no_bytes_do_harm(data: bytes) -> None:
    with pytest.raises(TokenError):
        check(PermissionToken.from_bytes(data))


# ---------------------------------------------------------------- values


def test_a_token_is_a_value() -> None:
    token = issued().delegate(BOB, subject=CAROL.entity_id)
    again = PermissionToken.from_bytes(token.to_bytes())

    for twin in (again, copy.copy(token), copy.deepcopy(token), pickle.loads(pickle.dumps(token))):
        assert (twin, hash(twin), repr(twin)) == (token, hash(token), repr(token))
    assert token != issued()
    assert issued() != issued()  # Each has a nonce of its own.
    assert token != token.to_bytes()
    assert "plant/alarms" in repr(token)
    assert "every channel" in repr(issued(channel=None))
    with pytest.raises(AttributeError):
        token.delegations = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        PermissionToken()


def test_a_wrong_argument_is_refused() -> None:
    fields: dict[str, object] = {
        "issuer": ALICE, "subject": BOB.entity_id, "channel": ALARMS, "rights": [Right.SUBSCRIBE], "ttl": HOUR,
    }  # fmt: skip

    def issue(issuer: object, **options: object) -> object:
        return PermissionToken.issue(issuer, **options)  # type: ignore[arg-type]

    check_refused(issue, fields, {"subject": BAD_ENTITIES})
    check_refused(issue, fields, {"issuer": [(None, TypeError), (b"x" * 32, TypeError), (ALICE.entity_id, TypeError)]})
    check_refused(issue, fields, {"channel": [(b"a", TypeError), (7, TypeError), ("A", ChannelNameError)]})
    rights = [(value, TypeError) for value in ("subscribe", ["subscribe"], [1], 3, None, Right.SUBSCRIBE)]
    check_refused(issue, fields, {"rights": [*rights, ([], InvalidArgument), (iter(()), InvalidArgument)]})
    check_refused(issue, fields, {"ttl": [(3600, TypeError), (None, TypeError), ("1h", TypeError)]})
    numbers = [*((value, InvalidArgument) for value in (-1, 8, 256, 2**64)), (1.0, TypeError), (True, TypeError)]
    check_refused(issue, fields | {"delegations": 0}, {"delegations": numbers})
    check_refused(PermissionToken.from_bytes, {"data": made()}, {"data": BAD_BYTES})
    asked: dict[str, object] = {
        "roots": [ALICE.entity_id], "right": Right.SUBSCRIBE, "channel": ALARMS, "presenter": BOB.entity_id,
        "now": BEGIN,
    }  # fmt: skip
    verify = PermissionToken.from_bytes(made()).verify
    check_refused(verify, asked, {"presenter": BAD_ENTITIES})
    check_refused(verify, asked, {"now": [case for case in BAD_MOMENTS if case[0] is not None]})
    check_refused(verify, asked, {"right": [("subscribe", TypeError), (2, TypeError), (None, TypeError)]})
    check_refused(verify, asked, {"roots": [(7, TypeError), ([b"x" * 32], TypeError), (None, TypeError)]})
    delegate = issued().delegate
    check_refused(delegate, {"holder": BOB, "subject": CAROL.entity_id}, {"holder": [(BOB.entity_id, TypeError)]})
    with pytest.raises(InvalidArgument):
        delegate(BOB, subject=CAROL.entity_id, rights=[])


def test_a_policy_is_a_record_of_options() -> None:
    fields: dict[str, object] = {
        "requires_token": True,
        "roots": frozenset({ALICE.entity_id, BOB.entity_id}),
        "retain_bytes_max": 0,
        "payload_bytes_max": 1,
    }
    check_record(ChannelPolicy(**fields), fields, by_keyword=True)  # type: ignore[arg-type]
    default = ChannelPolicy()
    assert (default.requires_token, default.roots) == (False, frozenset())
    assert (default.retain_bytes_max, default.payload_bytes_max) == (64 << 20, 16 << 20)


def test_an_option_out_of_range_is_refused() -> None:
    many = frozenset(EntityId(Identity.generate().entity_id) for _ in range(1025))
    for field, value, error in (
        ("payload_bytes_max", 0, ConfigError),
        ("payload_bytes_max", 2**30 + 1, ConfigError),
        ("payload_bytes_max", -1, ConfigError),
        ("retain_bytes_max", -1, ConfigError),
        ("retain_bytes_max", 2**64, ConfigError),
        ("roots", many, ConfigError),
        ("roots", {ALICE.entity_id}, TypeError),
        ("roots", frozenset({"alice"}), TypeError),
        ("roots", None, TypeError),
        ("requires_token", 1, TypeError),
        ("requires_token", None, TypeError),
    ):
        with pytest.raises(error):
            ChannelPolicy(**{field: value})  # type: ignore[arg-type]
