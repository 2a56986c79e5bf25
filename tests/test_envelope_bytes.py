"""What is not one canonical envelope is refused, with the byte at which reading ended."""

import base64
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envelopes
from envelopes import Admin, Blast, Fields, Header, Ice, resealed
from meshos import events
from meshos.errors import EnvelopeDecodeError
from meshos.operator import AdminEnvelope, IceEnvelope
from orders import Envelope, read
from pages import ROOT
from records import BAD_BYTES, BAD_TEXTS

VECTORS = envelopes.vectors()
ADMIN = envelopes.admin_vectors()["drop_replicas"]
ICE = envelopes.ice_vectors()["everything"]
UNSIGNED = replace(ICE, signatures=())


def refused(data: bytes, cls: type[Envelope]) -> EnvelopeDecodeError:
    with pytest.raises(EnvelopeDecodeError) as caught:
        cls.from_bytes(data)
    assert 0 <= caught.value.offset <= len(data)
    return caught.value


def ice_file(signed: bytes, blast: bytes = UNSIGNED.blast.encode()) -> bytes:
    return envelopes.file_bytes(signed, blast, ())


def ice_around(blast: bytes) -> bytes:
    """An envelope whose hash fits a preview that no writer writes."""

    class Other(Blast):
        def encode(self) -> bytes:
            return blast

    return replace(UNSIGNED, blast=Other()).encode()


@pytest.mark.parametrize("envelope", [ADMIN, ICE], ids=["admin", "ice"])
def test_every_cut_is_refused(envelope: Admin | Ice) -> None:
    data = envelope.encode()
    cls = type(read(envelope))

    for length in range(len(data)):
        refused(data[:length], cls)
        if length != len(data) - 4:
            refused(resealed(data[:length]), cls)
    for more in (b"\0", b"MOSE", data):
        refused(data + more, cls)
        refused(resealed(data[:-4] + more), cls)


@pytest.mark.parametrize("envelope", [ADMIN, VECTORS["freeze_cluster"]], ids=["admin", "ice"])
def test_every_single_bit_is_refused(envelope: Admin | Ice) -> None:
    data = envelope.encode()
    cls = type(read(envelope))

    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed), cls)


def test_one_kind_is_not_read_as_the_other() -> None:
    assert refused(ICE.encode(), AdminEnvelope).offset == 9
    assert refused(ADMIN.encode(), IceEnvelope).offset == 9
    for name in ("admin_envelope", "ice_envelope"):
        data = (ROOT / f"tests/data/{name}_v1.bin").read_bytes()
        refused(data, IceEnvelope if name == "admin_envelope" else AdminEnvelope)


SIGNED = UNSIGNED.signing_bytes()
AT = {"domain": 0, "version": 14, "cluster": 15, "id": 47, "issued": 63, "not_after": 71, "threshold": 79, "hash": 80}
"""Offsets in what is signed of a break-glass action."""


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


def test_the_hash_is_that_of_the_preview_beside_it() -> None:
    for to in (bytes(32), b"\1" * 32, Blast().hash()):
        error = refused(ice_file(changed(SIGNED, AT["hash"], to)), IceEnvelope)
        assert (error.offset, str(error)) == (9 + AT["hash"], f"envelope, byte {9 + AT['hash']}: invalid blast hash")
    refused(ice_file(SIGNED, Blast().encode()), IceEnvelope)
    refused(ice_file(SIGNED, b""), IceEnvelope)


def test_only_the_known_version_is_read() -> None:
    for version in (0, 2, 255):
        refused(ice_file(changed(SIGNED, AT["version"], bytes([version]))), IceEnvelope)
        refused(resealed(changed(ICE.encode()[:-4], 4, bytes([version]))), IceEnvelope)
        refused(ice_around(changed(Blast().encode(), 0, bytes([version]))), IceEnvelope)
    for domain in (b"meshos.ice.v2\0", b"meshos.ice.v1\1", b"net.meshos.ice.v1\0"[:14]):
        refused(ice_file(changed(SIGNED, 0, domain)), IceEnvelope)


def test_unknown_tags_are_refused() -> None:
    action = AT["hash"] + 32 + 4
    for tag in (0, 8, 255):
        assert refused(ice_file(changed(SIGNED, action, bytes([tag]))), IceEnvelope).offset == 9 + action
    signed = ADMIN.signing_bytes()
    event = len(b"meshos.admin.v1\0") + 1 + 32 + 16 + 16 + 4
    for tag in (0, 10, 11, 15, 255):
        data = envelopes.file_bytes(changed(signed, event, bytes([tag])), b"", ())
        assert refused(data, AdminEnvelope).offset == 9 + event
    head = b"\1" + bytes(12) + b"\0" + bytes(4) + b"\1\0\0\0"
    for tag, ids in ((0, 0), (17, 0), (255, 0), (1, 1), (6, 0), (6, 2), (7, 1), (7, 3), (16, 255)):
        refused(ice_around(head + bytes([tag, ids]) + bytes(8 * ids)), IceEnvelope)


def test_no_list_is_unsorted_or_longer_than_it_says() -> None:
    for items in ((2, 1), (2, 2), (0, 5, 4), (2**64 - 1, 0)):
        refused(ice_around(Blast(nodes=items).encode()), IceEnvelope)
        refused(ice_around(Blast(replicas=items).encode()), IceEnvelope)
        refused(ice_around(Blast(daemons=[(item, "") for item in items]).encode()), IceEnvelope)
    plain = Blast(nodes=(1,)).encode()
    for count in (2, 65_537, 2**32 - 1):
        refused(ice_around(changed(plain, 1, struct.pack("<I", count))), IceEnvelope)
    for size in (256, 2**32 - 1):
        refused(
            ice_around(Blast(daemons=[(1, "n" * 256)]).encode().replace(b"\0\1\0\0", struct.pack("<I", size))),
            IceEnvelope,
        )


def test_an_option_is_there_or_absent() -> None:
    plain = Blast().encode()
    assert plain[13] == 0
    for mark in (2, 3, 255):
        refused(ice_around(changed(plain, 13, bytes([mark])) + bytes(8)), IceEnvelope)
    event = b"\1" + bytes(8)
    header = Header().encode()
    for mark in (2, 255):
        signed = b"meshos.admin.v1\0" + header + envelopes.long(event + bytes([mark]) + bytes(8)) + envelopes.long(b"r")
        refused(envelopes.file_bytes(signed, b"", ()), AdminEnvelope)


def test_parts_have_the_length_they_say() -> None:
    header, event = Header().encode(), envelopes.event_bytes({"kind": "cordon", "node": 7})
    good = b"meshos.admin.v1\0" + header
    for body in (
        envelopes.long(event + b"\0") + envelopes.long(b"r"),
        struct.pack("<I", len(event) - 1) + event + envelopes.long(b"r"),
        struct.pack("<I", len(event) + 1) + event + envelopes.long(b"r"),
        envelopes.long(event) + envelopes.long(b"r") + b"\0",
        envelopes.long(event) + struct.pack("<I", 2) + b"r",
        envelopes.long(event) + struct.pack("<I", 2**32 - 1) + b"r",
        envelopes.long(event) + envelopes.long(b"r" * 1025),
        envelopes.long(event) + envelopes.long(b"\xff"),
        envelopes.long(event),
        envelopes.long(event) + envelopes.long(b"\xed\xa0\x80"),
    ):
        refused(envelopes.file_bytes(good + body, b"", ()), AdminEnvelope)
    assert AdminEnvelope.from_bytes(
        envelopes.file_bytes(good + envelopes.long(event) + envelopes.long(b"r"), b"", ())
    ).event == events.Cordon(7)


def test_an_ordinary_command_has_no_preview_and_one_signature() -> None:
    signed = ADMIN.signing_bytes()

    refused(envelopes.file_bytes(signed, Blast().encode(), ()), AdminEnvelope)
    refused(envelopes.file_bytes(signed, b"", [*ADMIN.signatures, *ADMIN.signatures]), AdminEnvelope)


def test_a_bundle_has_at_most_64_signatures() -> None:
    pairs = [(bytes([index]) * 32, bytes(64)) for index in range(65)]

    assert len(IceEnvelope.from_bytes(replace(ICE, signatures=pairs[:64]).encode()).signatures) == 64
    refused(replace(ICE, signatures=pairs).encode(), IceEnvelope)


def test_a_drop_of_too_many_chains_and_an_envelope_too_large_are_refused() -> None:
    event: Fields = {"kind": "drop_replicas", "node": 1, "chains": list(range(4096))}
    assert read(Admin(event)).to_bytes() == Admin(event).encode()
    refused(Admin({**event, "chains": list(range(4097))}).encode(), AdminEnvelope)
    assert "4194304" in str(refused(resealed(ICE.encode()[:-4] + bytes(4 << 20)), IceEnvelope))


def test_the_input_is_bytes() -> None:
    for value, error in BAD_BYTES:
        for cls in (AdminEnvelope, IceEnvelope):
            with pytest.raises(error, match="data"):
                cls.from_bytes(value)  # type: ignore[arg-type]
    assert IceEnvelope.from_bytes(bytearray(ICE.encode())) == IceEnvelope.from_bytes(memoryview(ICE.encode()))


# ---------------------------------------------------------------- armoured


def test_a_text_survives_what_mail_does_to_it() -> None:
    armoured = ICE.armoured()

    for sent in (armoured.replace("\n", "\r\n"), f"\n\n  {armoured}\n ", armoured.rstrip()):
        assert IceEnvelope.from_text(sent) == read(ICE)


def test_a_text_is_refused_that_is_not_as_it_is_written() -> None:
    armoured = ICE.armoured()
    lines = armoured.split("\n")
    body = "".join(lines[1:-2])
    wide = [body[at : at + 76] for at in range(0, len(body), 76)]

    for sent in (
        "",
        "hello",
        armoured.replace("ICE", "ADMIN"),
        armoured.replace("-----END", "-----ENDE"),
        armoured.replace(lines[2], lines[2] + " "),
        armoured.replace(lines[2], lines[2][:-4] + "===="),
        armoured.replace(lines[2], lines[2].replace(lines[2][3], "!")),
        armoured.replace("\n" + lines[2], ""),
        "\n".join([lines[0], "", *lines[1:]]),
        "\n".join([lines[0], *wide, lines[-2], ""]),
        "> " + armoured.replace("\n", "\n> "),
        "\n".join(lines[:-2]),
        armoured + armoured,
        armoured + "regards",
    ):
        with pytest.raises(EnvelopeDecodeError):
            IceEnvelope.from_text(sent)
    for value, error in BAD_TEXTS:
        with pytest.raises(error, match="text"):
            IceEnvelope.from_text(value)  # type: ignore[arg-type]


def test_armour_is_base64() -> None:
    lines = ADMIN.armoured().split("\n")

    assert base64.b64decode("".join(lines[1:-2]), validate=True) == ADMIN.encode()


# ---------------------------------------------------------------- any bytes


@settings(deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(resealed))
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    for cls in (AdminEnvelope, IceEnvelope):
        try:
            found = cls.from_bytes(data)
        except EnvelopeDecodeError:
            refused(data, cls)
        else:
            assert found.to_bytes() == data
