"""Key pairs and entity ids: signatures that PyNaCl agrees with, and secrets that do not get out."""

import copy
import pickle
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

import reference
from meshos.errors import IdentityError, InvalidArgument
from meshos.identity import EntityId, EntityKeypair, Identity
from records import ALICE, BAD_BYTES, BAD_BYTES_32, BAD_SIGNATURES, BOB, Cases, check_refused, evaluated, twins

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group that Ed25519 computes in."""
FIELD = 2**255 - 19

seeds = st.binary(min_size=32, max_size=32)


def small_order_points() -> list[bytes]:
    """The encodings that any message has a forged signature for."""
    torsion = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    values = (1, FIELD - 1, 0, torsion, FIELD - torsion)
    return [(value | sign << 255).to_bytes(32, "little") for value in values for sign in (0, 1)]


def refused(kind: str) -> pytest.RaisesExc[IdentityError]:
    return pytest.RaisesExc(IdentityError, check=lambda error: error.kind == kind)


# ---------------------------------------------------------------- keys


def test_first_vector_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    identity = Identity.from_seed(seed)

    assert identity.entity_id.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


@given(seeds, st.binary(max_size=200))
def test_pynacl_agrees_on_keys_and_signatures(seed: bytes, message: bytes) -> None:
    ours, theirs = Identity.from_seed(seed), SigningKey(seed)

    assert ours.entity_id == bytes(theirs.verify_key)
    assert ours.origin_hash == reference.origin_hash(bytes(theirs.verify_key))
    assert ours.sign(message) == theirs.sign(message).signature
    ours.verify(message, theirs.sign(message).signature)
    VerifyKey(ours.entity_id).verify(message, ours.sign(message))


def test_keys_cross_to_pynacl_and_back() -> None:
    theirs = SigningKey.generate()

    ours = Identity.from_signing_key(theirs)

    assert not ours.is_read_only
    assert ours.to_signing_key() == theirs
    assert Identity.from_signing_key(ours.to_signing_key()) == ours


@pytest.mark.parametrize("key", [ALICE.entity_id, VerifyKey(ALICE.entity_id)], ids=["EntityId", "VerifyKey"])
def test_public_half_names_and_verifies_and_cannot_sign(key: EntityId | VerifyKey) -> None:
    public = Identity.public_only(key)

    public.verify(b"message", ALICE.sign(b"message"))

    assert public.is_read_only
    assert public.entity_id == ALICE.entity_id
    assert public.origin_hash == ALICE.origin_hash
    with refused("read_only"):
        public.sign(b"message")
    with refused("read_only"):
        public.to_signing_key()


def test_generated_keys_differ() -> None:
    assert len({Identity.generate().entity_id for _ in range(100)}) == 100


def test_seeds_name_is_the_same_class() -> None:
    assert EntityKeypair is Identity


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_messages_come_in_any_bytes_like_form(form: type[bytes | bytearray | memoryview]) -> None:
    message = form(b"message")

    signature = ALICE.sign(message)

    assert signature == ALICE.sign(b"message")
    ALICE.verify(message, form(signature))


def test_views_that_skip_bytes_are_read_as_they_look() -> None:
    ALICE.verify(b"msae", ALICE.sign(memoryview(b"message!")[::2]))


@given(st.integers(0, 64 * 8 - 1))
def test_any_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    signature = bytearray(ALICE.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8

    with refused("invalid_signature"):
        ALICE.verify(b"message", bytes(signature))


def test_signature_of_another_message_or_key_is_refused() -> None:
    signature = ALICE.sign(b"message")

    with refused("invalid_signature"):
        ALICE.verify(b"messagE", signature)
    with refused("invalid_signature"):
        BOB.verify(b"message", signature)


def test_malleable_signature_is_refused() -> None:
    """Adding the group's order to the second half gives another signature that lax implementations accept."""
    signature = ALICE.sign(b"message")
    half = int.from_bytes(signature[32:], "little") + ORDER
    twin = signature[:32] + half.to_bytes(32, "little")

    with refused("invalid_signature"):
        ALICE.verify(b"message", twin)
    with pytest.raises(BadSignatureError):
        VerifyKey(ALICE.entity_id).verify(b"message", twin)


def test_signature_with_a_point_of_small_order_is_refused() -> None:
    forged = [point + bytes(32) for point in small_order_points()]

    for signature in forged:
        with refused("invalid_signature"):
            ALICE.verify(b"message", signature)


# ---------------------------------------------------------------- the secret


def test_erasing_leaves_the_public_half() -> None:
    identity = Identity.from_seed(bytes(32))
    signature = identity.sign(b"before")

    identity.erase()
    identity.erase()

    assert identity.is_read_only
    assert identity == Identity.from_seed(bytes(32))
    identity.verify(b"before", signature)
    with refused("read_only"):
        identity.sign(b"after")
    with refused("read_only"):
        identity.to_signing_key()


def test_secret_is_in_no_repr() -> None:
    seed = bytes(range(32))
    identity = Identity.from_seed(seed)

    shown = f"{identity!r} {identity} {identity.entity_id!r}"

    for secret in (seed.hex(), repr(seed)[2:20], b64encode(seed).decode()[:12], "0, 1, 2"):
        assert secret not in shown
    assert repr(identity) == f"<Identity {identity.origin_hash:016x}>"
    identity.erase()
    assert repr(identity) == f"<Identity {identity.origin_hash:016x}, public only>"


@pytest.mark.parametrize("identity", [ALICE, Identity.public_only(ALICE.entity_id)], ids=["full", "public"])
def test_identity_is_neither_pickled_nor_copied(identity: Identity) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(identity, protocol)
    with pytest.raises(TypeError, match="secret"):
        copy.copy(identity)
    with pytest.raises(TypeError, match="secret"):
        copy.deepcopy([identity])


def test_secret_is_in_no_error() -> None:
    seed = b"a secret that is one byte too long"

    with pytest.raises(InvalidArgument) as raised:
        Identity.from_seed(seed)

    assert "secret" not in f"{raised.value!r} {raised.value} {raised.value.args}"


def test_identity_has_no_attributes_to_set() -> None:
    with pytest.raises(AttributeError):
        ALICE.seed = b""  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        ALICE.entity_id = BOB.entity_id  # type: ignore[misc]
    with pytest.raises(TypeError):
        type("Mine", (Identity,), {})


def test_threads_sign_until_another_erases() -> None:
    identity = Identity.generate()

    def sign(number: int) -> bytes | None:
        if number == 50:
            identity.erase()
        try:
            return identity.sign(bytes([number]))
        except IdentityError as error:
            return None if error.kind == "read_only" else b"another error"

    with ThreadPoolExecutor(4) as pool:
        signatures = list(pool.map(sign, range(100)))

    assert signatures[50] is None
    for number, signature in enumerate(signatures):
        if signature is not None:
            identity.verify(bytes([number]), signature)


def test_pynacl_is_imported_only_when_its_keys_are_used() -> None:
    script = """
import sys
from meshos.identity import EntityId, Identity
identity = Identity.generate()
identity.verify(b"", identity.sign(b""))
Identity.public_only(EntityId(bytes(identity.entity_id)))
assert not any(name.partition(".")[0] == "nacl" for name in sys.modules)
identity.to_signing_key()
assert "nacl.signing" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# ---------------------------------------------------------------- comparing and wrong arguments


def test_identities_are_equal_by_their_public_half() -> None:
    public = Identity.public_only(ALICE.entity_id)

    assert public == ALICE
    assert hash(public) == hash(ALICE)
    assert ALICE != BOB
    assert ALICE.entity_id != ALICE
    assert {public: 1}[ALICE] == 1


def test_bad_arguments_are_refused() -> None:
    check_refused(Identity.from_seed, {"seed": bytes(32)}, {"seed": BAD_BYTES_32})
    check_refused(ALICE.sign, {"message": b""}, {"message": BAD_BYTES})
    signed = {"message": b"", "signature": ALICE.sign(b"")}
    check_refused(ALICE.verify, signed, {"message": BAD_BYTES, "signature": BAD_SIGNATURES})
    keys: Cases = [(key, TypeError) for key in (bytes(32), None, "key", ALICE)]
    verify_key = VerifyKey(ALICE.entity_id)
    check_refused(Identity.from_signing_key, {"key": SigningKey(bytes(32))}, {"key": [*keys, (verify_key, TypeError)]})
    check_refused(Identity.public_only, {"key": verify_key}, {"key": [*keys, (SigningKey(bytes(32)), TypeError)]})


def test_unusable_key_is_refused_as_public_half() -> None:
    for point in small_order_points():
        with refused("invalid_public_key"):
            Identity.public_only(VerifyKey(point))


def test_identity_is_made_by_its_class_methods_only() -> None:
    with pytest.raises(TypeError):
        Identity()


# ---------------------------------------------------------------- entity ids


def test_entity_id_is_its_32_bytes() -> None:
    entity = ALICE.entity_id

    assert isinstance(entity, bytes)
    assert EntityId(bytes(entity)) == entity == bytes(entity)
    assert hash(entity) == hash(bytes(entity))
    assert str(entity) == entity.hex()
    assert repr(entity) == f"EntityId.fromhex('{entity.hex()}')"
    assert evaluated(repr(entity)) == entity
    assert EntityId.fromhex(entity.hex()) == entity


@given(seeds)
def test_handles_are_derived_from_the_whole_id(seed: bytes) -> None:
    entity = Identity.from_seed(seed).entity_id

    assert entity.origin_hash == reference.origin_hash(entity)
    assert entity.node_id == reference.node_id(entity)
    assert entity.origin_hash != entity.node_id


def test_entity_id_is_copied_and_pickled() -> None:
    for twin in twins(ALICE.entity_id):
        assert type(twin) is EntityId
        assert twin == ALICE.entity_id


def test_entity_id_takes_no_attributes() -> None:
    with pytest.raises(AttributeError):
        ALICE.entity_id.another = 1  # type: ignore[attr-defined]
    assert not hasattr(ALICE.entity_id, "__dict__")


def test_entity_id_is_32_bytes_of_a_usable_key() -> None:
    for value, expected in BAD_BYTES_32:
        with pytest.raises(expected):
            EntityId(value)  # type: ignore[arg-type]
    off_curve = bytes([2]) + bytes(31)
    not_canonical = (FIELD + 3).to_bytes(32, "little")
    for raw in (off_curve, not_canonical, *small_order_points()):
        with refused("invalid_public_key"):
            EntityId(raw)
    with pytest.raises(TypeError):
        EntityId(raw=bytes(ALICE.entity_id))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        EntityId()  # type: ignore[call-arg]


class Disguised(bytes):
    """Shows one key where it is looked at, and another where it is converted."""

    def __bytes__(self) -> bytes:
        return bytes(32)


def test_what_is_checked_is_what_is_kept() -> None:
    assert EntityId(Disguised(ALICE.entity_id)) == ALICE.entity_id
