"""The bytes of every released format, computed anew by an independent program, and read by this one.

`data/golden.json` and the files beside it were written by the core's example `golden`, once. Here every value in them
is made a second time, by `reference` and `envelopes` from the published formulas, and the extension must agree with
both. The files of a released version are never edited: a reader that refuses them cannot read what users have stored.
"""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from blake3 import blake3
from nacl.signing import SigningKey

import calls
import envelopes
import frames
import journals
import meshes
import moving
import owners
import reference
import trails
from meshos import DaemonRuntime, Mesh
from meshos.audit import read_records, verify_records
from meshos.chain import CausalChainBuilder, CausalEvent, CausalLink, Certificate, Checkpoint, ForkRecord, verify_chain
from meshos.channel import PermissionToken
from meshos.daemon import DaemonBindings, DaemonHost, MeshDaemon
from meshos.errors import ChainError, EnvelopeDecodeError, TokenError
from meshos.identity import EntityId, Identity
from meshos.operator import AdminEnvelope, IceEnvelope
from meshos.snapshot import StateSnapshot

DATA = Path(__file__).parent / "data"
GOLDEN: dict[str, str] = json.loads((DATA / "golden.json").read_text())

ENTITY, NODE_1, NODE_2, CHILD = (SigningKey(bytes([byte]) * 32) for byte in (0x42, 0x11, 0x22, 0x33))
ID = reference.entity_id(ENTITY)
PAYLOADS = (b"hello", b"", b"\xa5" * 1500, b"moved", b"and on")
HORIZONS = (0, reference.sketch([0xAAAA]), reference.U64_MAX, 0, 1)
STATE = b"state of a counter"
NEW_YEAR_MS = 1_767_225_600_000
ADMIN, ICE = envelopes.admin_vectors()["drain"], envelopes.ice_vectors()["freeze_cluster"]


def chain() -> reference.Chain:
    made = reference.Chain(ID)
    for payload, horizon in zip(PAYLOADS, HORIZONS, strict=True):
        made.append(payload, horizon)
    return made


def certificates() -> tuple[bytes, bytes]:
    digests = chain().digests
    return (
        reference.certificate(ID, 1, reference.entity_id(NODE_1), 0, digests[0], "spawn", ENTITY),
        reference.certificate(ID, 2, reference.entity_id(NODE_2), 3, digests[3], "move", NODE_1),
    )


def checkpoints() -> tuple[bytes, bytes]:
    digests = chain().digests
    first = reference.checkpoint(ID, 1, 3, digests[3], NEW_YEAR_MS, NODE_1)
    previous = reference.checkpoint_digest(first)
    return first, reference.checkpoint(ID, 2, 5, digests[5], NEW_YEAR_MS + 1500, NODE_2, previous)


def snapshot() -> reference.Snapshot:
    receipts = tuple(
        reference.Receipt(sequence, 2, sequence + 1, sequence + 2, bytes([sequence]) * 32) for sequence in (42, 44)
    )
    return reference.Snapshot(
        kind="counter",
        schema=3,
        entity=ID,
        epoch=2,
        taken_at=NEW_YEAR_MS + 2000,
        head=chain().events[-1][0],
        digest=chain().digest,
        cursors={(0xAAAA, 0): (44, receipts), (0xAAAA, 7): (reference.U64_MAX, ()), (0xBBBB, 0): (1, ())},
        stats=(6, 5, 4, 3, 2, 1),
        bindings=((1, "sensors/lidar", None), (1, "sensors/radar", b""), (2, "sensors/lidar", b"\0\xff\x7f")),
        lineage=certificates(),
        state=STATE,
    )


def kept() -> dict[str, bytes]:
    """Every format of a store once."""
    made = chain()
    done = [
        journals.Step(1, 2, made.digests[2], receipt=True),
        journals.Step(2, 0, made.digests[2], outcome=journals.PASSED_OVER),
        journals.Step(5, 1, made.digests[3]),
    ]
    steps, outputs = journals.steps(ID, made.digests[0], done), journals.outputs(made, 3)
    key = ID + struct.pack(">Q", 1)
    first = [journals.write("journal", key, steps), journals.write("outputs", key, outputs)]
    return {
        "steps": steps,
        "outputs": outputs,
        "snapshot_row": journals.snapshot_row(ID, STATE, made.digests[3]),
        "store_head": journals.store_head(b"\x44" * 16, reference.entity_id(NODE_1)),
        "node_key": journals.node_key(b"\x11" * 32),
        "stored_daemon": journals.stored_daemon(ID, b"\x42" * 32, b"\x11" * 32, b"\x55" * 24, version=1),
        "stored_daemon_v2": journals.stored_daemon(ID, b"\x42" * 32, b"\x11" * 32, b"\x55" * 24),
        "dead_letter": journals.dead_letter(),
        "segment": journals.segment(b"\x44" * 16, [first, [journals.write("node", b"name", None)]]),
    }


def grants() -> tuple[bytes, bytes]:
    """A token of one channel, and what its subject passed on."""
    end = NEW_YEAR_MS + 3_600_000
    rights = ("publish", "subscribe", "delegate")
    root = reference.grant(NODE_1, ID, "sensors/lidar", rights, 2, (NEW_YEAR_MS, end), b"\x66" * 16)
    span = (NEW_YEAR_MS + 1000, end)
    child, above = reference.entity_id(CHILD), reference.grant_digest(root)
    return root, reference.grant(ENTITY, child, "sensors/lidar", ("subscribe",), 1, span, b"\x77" * 16, above)


def files() -> dict[str, bytes]:
    """Every format once."""
    made = chain()
    return (
        {
            "link": made.events[1][0],
            "certificate": certificates()[1],
            "checkpoint": checkpoints()[1],
            "fork_record": reference.fork_record(ID, CHILD, 3, made.digests[3], 2, ENTITY),
            "cursors": snapshot().sections()[2],
            "bindings": snapshot().sections()[4],
            "snapshot": snapshot().encode(),
            "chain_export": reference.export(ID, certificates(), checkpoints(), made.events),
            "admin_envelope": ADMIN.encode(),
            "ice_envelope": ICE.encode(),
            "blast_radius": ICE.blast.encode(),
            "permission_token": reference.token(*grants()),
            "handed_key": reference.handed_key(b"\x88" * 32, 7, "sensors/lidar", NODE_1, ENTITY, b"\x99" * 32),
            "sealed_payload": reference.sealed_payload(
                b"\x88" * 32, 7, "sensors/lidar", reference.entity_id(NODE_1), 3, b"hot"
            ),
            "channel_frames": reference.channel_frames(
                "sensors/lidar",
                ENTITY,
                reference.entity_id(CHILD),
                reference.entity_id(NODE_2),
                reference.entity_id(NODE_1),
                reference.token(*grants()),
            ),
            "publish_frames": reference.publish_frames(
                "sensors/lidar",
                ENTITY,
                reference.entity_id(NODE_2),
                reference.entity_id(NODE_1),
                reference.token(*grants()),
            ),
            "revocation": reference.revocation(NODE_1, "subject", reference.entity_id(CHILD), NEW_YEAR_MS + 1500),
        }
        | linked()
        | kept()
        | recorded()
        | sent()
        | owned()
    )


def linked() -> dict[str, bytes]:
    """Every format of linked streams once."""
    return {
        "frames": frames.golden(chain(), certificates(), reference.entity_id(NODE_2)),
        "sender": frames.sender(CHILD, NODE_1, NEW_YEAR_MS),
        "reservation": frames.reservation(8192),
        "search_frames": frames.search(ID, reference.entity_id(NODE_1)),
        "due": frames.due(reference.entity_id(CHILD), 2, PAYLOADS[3], version=1),
        "due_v2": frames.due(reference.entity_id(CHILD), 2, PAYLOADS[3]),
    }


def recorded() -> dict[str, bytes]:
    """Every file of records once."""
    freeze = envelopes.action_bytes({"kind": "freeze_cluster", "ttl_ms": 300_000})
    return trails.golden(envelopes.event_bytes(ADMIN.event), freeze, SigningKey(b"\x01" * 32))


def stem(name: str) -> str:
    """Name the file of a format: one without a version has the first."""
    return name if re.search(r"_v\d$", name) else f"{name}_v1"


def sent() -> dict[str, bytes]:
    """Everything that nodes send once."""
    mesh = meshes.mesh_id(b"meshos golden")
    ours, theirs = meshes.Side(NODE_1, 7, b"\x61" * 32), meshes.Side(NODE_2, 8, b"\x62" * 32)
    heartbeat = meshes.heartbeat(
        NEW_YEAR_MS,
        1000,
        ours.public,
        load=1.5,
        memory=(3 << 30, None),
        software="1.2.3",
        echoes=((reference.node_id(theirs.node), 8, 41, 250_000),),
        tags=("hardware.gpu", "software.cuda=12"),
        metadata={"rack": "7"},
    )
    return {
        "heartbeat": heartbeat,
        "frame": meshes.signed(NODE_1, meshes.HEARTBEAT, mesh, 7, 42, heartbeat),
        "tagged_frame": meshes.tagged(mesh, ours, theirs, 3, b"payload"),
        "parcel": b"\x01" + b"".join(len(part).to_bytes(4, "little") + part for part in (b"one", b"\x00", b"three")),
    }


def fed() -> bytes:
    """One of each frame between an owner and a reader, after its length."""
    head = b"\x09" * 32 + b"a call, 16 bytes"
    parcel = b"\x01" + (3).to_bytes(4, "little") + b"one"
    rests = (parcel, parcel, b"", b"", b"", b"", b"", b"\x04" * 32 + (7).to_bytes(8, "little"))
    made = [bytes((1, kind)) + head + rest for kind, rest in enumerate(rests, start=1)]
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in made)


def owned() -> dict[str, bytes]:
    """Every format of ownership once."""
    made = owners.records(ENTITY, NODE_1, NODE_2, CHILD, chain().digests)
    ordered, head = moving.order(ID, NODE_1, NODE_2, CHILD), chain().digests[3]
    return {
        "ownership_records": b"".join(made),
        "ownership_frames": owners.frames(ID, made),
        "remote_frames": calls.frames(made[0]),
        "remote_outputs": b"\x01\x69a call, 16 bytes" + (9).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"),
        "feed_frames": fed(),
        "move_frames": moving.frames(ID, ordered, head, made),
        "move_asides": moving.asides(ID, NODE_1, NODE_2, CHILD, head, made),
        "move_rows": moving.rows(ID, ordered, head, made),
        "image": travelling().encode(),
        "image_since": since_copy(),
        "image_chunk": travelling().chunk(),
    }


def travelling() -> moving.Image:
    """The daemon of the order, after its third output."""
    made = chain()
    stream, source = moving.source(reference.entity_id(NODE_1), 9, "sensors/lidar")
    due = frames.due(reference.entity_id(CHILD), 2, PAYLOADS[3])
    rows = (
        journals.write("outputs", ID + struct.pack(">Q", 1), journals.outputs(made, 3)),
        journals.write("checkpoints", ID + struct.pack(">QQ", 1, 3), checkpoints()[0]),
        journals.write("dead_letters", ID + struct.pack(">Q", 1), journals.dead_letter()),
        journals.write("outbox", ID + struct.pack(">Q", 2), due),
        journals.write("streams", ID + struct.pack(">Q", stream), source),
    )
    return moving.Image(ENTITY, NODE_1, NODE_2, rows, stood().encode())


def stood() -> reference.Snapshot:
    """Where the daemon stands after its third output."""
    made = chain()
    return replace(snapshot(), epoch=1, head=made.events[2][0], digest=made.digests[3], lineage=certificates()[:1])


def since_copy() -> bytes:
    """What came since a copy of the daemon before its first step."""
    steps = journals.write("journal", ID + struct.pack(">Q", 1), kept()["steps"])
    return travelling().since(blake3(b"a copy").digest(), steps, replace(stood(), state=b"").encode())


def values() -> dict[str, str]:
    """Everything in `golden.json`, from formulas alone."""
    rows: dict[str, str] = {}
    for name, key in (("entity", ENTITY), ("node1", NODE_1), ("node2", NODE_2), ("child", CHILD)):
        entity = reference.entity_id(key)
        rows[f"{name}.id"] = entity.hex()
        rows[f"{name}.origin"] = f"{reference.origin_hash(entity):016x}"
        rows[f"{name}.node_id"] = f"{reference.node_id(entity):016x}"
    made = chain()
    rows |= {f"digest{number}": digest.hex() for number, digest in enumerate(made.digests)}
    for number, (link, payload) in enumerate(made.events, start=1):
        rows |= {f"link{number}": link.hex(), f"payload{number}": payload.hex()}
    for number, data in enumerate(checkpoints(), start=1):
        rows[f"checkpoint{number}.digest"] = reference.checkpoint_digest(data).hex()

    child = reference.entity_id(CHILD)
    lineage = reference.fork_lineage(ID, 3, made.digests[3], child)
    forked = reference.Chain(child, lineage)
    rows["fork.lineage"] = lineage.hex()
    rows["fork.digest0"] = forked.digest.hex()
    rows["fork.genesis"] = reference.link(reference.origin_hash(child), 0, 0, reference.head8(lineage)).hex()
    rows["fork.link1"] = forked.append(PAYLOADS[0]).hex()
    rows["fork.digest1"] = forked.digest.hex()

    rows["sketch.aaaa"] = f"{reference.sketch([0xAAAA]):016x}"
    rows["cursors.sketch"] = f"{reference.sketch([0xAAAA, 0xBBBB]):016x}"
    rows["channel.sensors/lidar"] = f"{reference.xxh3_64(b'sensors/lidar'):016x}"
    rows["snapshot.state"] = STATE.hex()
    rows |= {f"grant{number}.digest": reference.grant_digest(data).hex() for number, data in enumerate(grants())}
    return rows | {f"file.{name}": data.hex() for name, data in files().items()}


VALUES = values()


# ---------------------------------------------------------------- the golden values are what the formulas give


def test_every_golden_value_is_recomputed() -> None:
    assert VALUES.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_value_follows_from_the_formulas(name: str) -> None:
    assert GOLDEN[name] == VALUES[name]


@pytest.mark.parametrize("name", files())
def test_golden_file_has_the_golden_bytes(name: str) -> None:
    assert (DATA / f"{stem(name)}.bin").read_bytes().hex() == GOLDEN[f"file.{name}"]


def test_every_golden_file_is_checked() -> None:
    assert {path.stem for path in DATA.glob("*.bin")} == {stem(name) for name in files()}


# ---------------------------------------------------------------- the extension reads them, and writes the same

Record: TypeAlias = (
    CausalLink | Certificate | Checkpoint | ForkRecord | DaemonBindings | AdminEnvelope | IceEnvelope | PermissionToken
)
READERS: dict[str, Callable[[bytes], Record]] = {
    "link": CausalLink.from_bytes,
    "certificate": Certificate.from_bytes,
    "checkpoint": Checkpoint.from_bytes,
    "fork_record": ForkRecord.from_bytes,
    "bindings": DaemonBindings.from_bytes,
    "admin_envelope": AdminEnvelope.from_bytes,
    "ice_envelope": IceEnvelope.from_bytes,
    "permission_token": PermissionToken.from_bytes,
}


@pytest.mark.parametrize("name", READERS)
def test_released_record_is_read_and_written_alike(name: str) -> None:
    data = (DATA / f"{name}_v1.bin").read_bytes()

    assert READERS[name](data).to_bytes() == data


def test_released_snapshot_is_read_and_written_alike() -> None:
    data = (DATA / "snapshot_v1.bin").read_bytes()

    found = StateSnapshot.from_bytes(data)

    assert found.to_bytes() == data
    assert (found.kind, found.schema, found.epoch, found.sequence, found.processed) == ("counter", 3, 2, 5, 6)
    assert found.entity_id == ID
    assert found.head_digest == chain().digest
    assert found.cursors == {0xAAAA: 44, 0xBBBB: 1}
    assert found.state == STATE
    assert found.taken_at.timestamp() * 1000 == NEW_YEAR_MS + 2000


def test_released_export_is_verified() -> None:
    report = verify_chain(DATA / "chain_export_v1.bin", EntityId(ID))

    assert (report.events, report.last_sequence, report.signed_through) == (5, 5, 5)
    assert report.digest == chain().digest
    assert [span.node for span in report.owners] == [reference.entity_id(NODE_1), reference.entity_id(NODE_2)]


GATED = ("revocation", "handed_key", "sealed_payload", "channel_frames", "publish_frames")
APART = {"link", "cursors", "blast_radius", *GATED, *kept(), *recorded(), *linked(), *sent(), *owned()}
CUT = [name for name in files() if name not in APART]


@pytest.mark.parametrize("name", recorded())
def test_released_file_of_records_is_checked(name: str) -> None:
    data = (DATA / f"{name}_v1.bin").read_bytes()
    signer = Identity.from_seed(b"\x01" * 32).entity_id

    report = verify_records(DATA / f"{name}_v1.bin", signer=signer)

    assert trails.checked(data, signer) == (report.records, report.head_digest, report.signed_through)
    assert report.records == report.signed_through == len(read_records(DATA / f"{name}_v1.bin")) > 1


@pytest.mark.parametrize("name", CUT)
def test_released_file_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    data = (DATA / f"{name}_v1.bin").read_bytes()
    path = tmp_path / "part"

    def read(part: bytes) -> object:
        if name == "chain_export":
            path.write_bytes(part)
            return verify_chain(path, EntityId(ID))
        return StateSnapshot.from_bytes(part) if name == "snapshot" else READERS[name](part)

    read(data)
    for length in range(1 if name == "bindings" else 0, len(data)):
        with pytest.raises((ChainError, EnvelopeDecodeError, TokenError)):
            read(data[:length])


def test_keys_and_chains_of_the_extension_are_the_golden_ones() -> None:
    for name, key in (("entity", ENTITY), ("node1", NODE_1), ("node2", NODE_2), ("child", CHILD)):
        identity = Identity.from_signing_key(key)
        assert identity.entity_id.hex() == GOLDEN[f"{name}.id"]
        assert f"{identity.origin_hash:016x}" == GOLDEN[f"{name}.origin"]
        assert f"{identity.entity_id.node_id:016x}" == GOLDEN[f"{name}.node_id"]

    builder = CausalChainBuilder(EntityId(ID))
    assert builder.head_digest.hex() == GOLDEN["digest0"]
    for number, (payload, horizon) in enumerate(zip(PAYLOADS, HORIZONS, strict=True), start=1):
        assert builder.append(payload, horizon).link.to_bytes().hex() == GOLDEN[f"link{number}"]
        assert builder.head_digest.hex() == GOLDEN[f"digest{number}"]


# ---------------------------------------------------------------- what the extension makes, a stranger recomputes


class Shout(MeshDaemon):
    """Emits every payload twice; its state is how many it has taken."""

    def __init__(self) -> None:
        self.taken = 0

    def process(self, event: CausalEvent) -> list[bytes]:
        self.taken += 1
        return [event.payload, event.payload.upper()]

    def snapshot(self) -> bytes:
        return struct.pack("<Q", self.taken)

    def restore(self, state: bytes) -> None:
        (self.taken,) = struct.unpack("<Q", state)


def test_export_of_the_extension_is_recomputed(tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "shout.chain"
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("shout", Shout)
        runtime.start()
        handle = runtime.spawn("shout", identity)
        receipts = [runtime.send(handle.origin_hash, word) for word in (b"a", b"", b"c" * 5000)]
        report = runtime.export_chain(handle.origin_hash, path)

    data = path.read_bytes()
    assert data[:40] == b"MESHCHN1" + identity.entity_id
    frames: dict[int, list[bytes]] = {1: [], 2: [], 3: [], 4: []}
    at = 40
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        frames[kind].append(data[at + 8 : at + 8 + length])
        at += 8 + length
    assert frames[4] == [blake3(data[:-40]).digest()]

    made = reference.Chain(identity.entity_id)
    for number, frame in enumerate(frames[3], start=1):
        origin, horizon, sequence, parent = struct.unpack_from("<4Q", frame)
        assert (origin, sequence) == (identity.origin_hash, number)
        assert parent == reference.head8(made.digest)
        assert horizon == reference.sketch({receipt.event_origin for receipt in receipts})
        assert made.append(frame[32:], horizon) == frame[:32]
    assert [payload for _, payload in made.events] == [b"a", b"A", b"", b"", b"c" * 5000, b"C" * 5000]
    assert report.digest == made.digest
    assert [(receipt.sequence, receipt.head) for receipt in receipts] == [
        (number, made.digests[number]) for number in (2, 4, 6)
    ]

    ((certificate,), (checkpoint,)) = frames[1], frames[2]
    node = certificate[42:74]
    assert certificate[:2] == bytes([1, reference.REASONS["spawn"]])
    signed = certificate[2:34], certificate[114:146]
    assert signed == (identity.entity_id, identity.entity_id)
    assert certificate[82:114] == made.digests[0]
    verifier = Identity.public_only(identity.entity_id).verify
    verifier(b"meshos 2026 certificate v1\0" + certificate[:-64], certificate[-64:])
    entity, epoch, sequence, digest = struct.unpack_from("<32sQQ32s", checkpoint, 1)
    assert (entity, epoch, sequence, digest) == (identity.entity_id, 1, 6, made.digest)
    Identity.public_only(EntityId(node)).verify(b"meshos 2026 checkpoint v1\0" + checkpoint[:-64], checkpoint[-64:])


def test_snapshot_of_the_extension_is_recomputed() -> None:
    identity, sender = Identity.generate(), Identity.generate()
    host = DaemonHost(Shout(), identity)
    made = reference.Chain(identity.entity_id)
    for number in range(1, 4):
        payload = b"payload %d" % number
        host.deliver(CausalEvent.external(sender.origin_hash, number, payload))
        for output in (payload, payload.upper()):
            made.append(output, reference.sketch([sender.origin_hash]))

    taken = host.take_snapshot()
    assert taken is not None

    found = reference.opened(taken.to_bytes())
    assert found.encode() == taken.to_bytes()
    assert (found.head, found.digest) == (made.events[-1][0], made.digest)
    assert found.stats == (3, 6, 0, 0, 1, 0)
    assert found.state == struct.pack("<Q", 3)
