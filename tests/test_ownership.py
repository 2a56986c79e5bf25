"""Ownership: an identity runs on one node of a mesh, while that has a lease; what is forged has no effect."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from daemons import Counter, Echo, eventually, numbered
from meshos import DaemonHostConfig, DaemonRuntime, Identity, Mesh, Store, verify_chain
from meshos._core import _mesh_pause, _ownership_post
from meshos.errors import (
    AlreadyStored,
    BadSignature,
    FileDecodeError,
    MeshOsError,
    NotOwner,
    ProcessFailed,
    Unavailable,
)
from meshos.mesh import OwnershipRecord, OwnershipStats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLAIM_WAIT = 5.0
"""Seconds that a spawn waits for the directory."""
SECONDS = timedelta(seconds=20)


@contextmanager
def cluster(count: int, stores: list[Store] | None = None) -> Iterator[list[DaemonRuntime]]:
    """Give the started runtimes of a cluster that sees itself, and close it."""
    meshes = Mesh.local_cluster(count, stores=stores)
    runtimes = [DaemonRuntime(mesh) for mesh in meshes]
    for runtime in runtimes:
        runtime.register_factory("counter", Counter)
        runtime.register_factory("echo", Echo)
        runtime.start()
    for mesh in meshes:
        for other in meshes:
            if other is not mesh:
                mesh.wait_for_peer(other.node_id, timeout=SECONDS)
    try:
        yield runtimes
    finally:
        for mesh in meshes:
            mesh.close()


def attempt(identity: Identity, barrier: threading.Barrier, runtime: DaemonRuntime) -> int | NotOwner:
    """Spawn when the others do; return the node, or why not."""
    barrier.wait()
    try:
        runtime.spawn("counter", identity)
    except NotOwner as error:
        return error
    return runtime.mesh().node_id


def test_of_two_spawns_at_once_exactly_one_wins_and_the_other_is_told_who() -> None:
    with cluster(3) as runtimes, ThreadPoolExecutor(3) as threads:
        for _ in range(30):
            identity, barrier = Identity.generate(), threading.Barrier(3)

            spawn = partial(attempt, identity, barrier)
            outcomes = list(threads.map(spawn, runtimes))
            (winner,) = (outcome for outcome in outcomes if isinstance(outcome, int))
            for error in outcomes:
                if isinstance(error, NotOwner):
                    assert (error.origin_hash, error.owner, error.epoch) == (identity.origin_hash, winner, 1)
                    assert error.__cause__ is None
            assert sum(runtime.find(identity.origin_hash) is not None for runtime in runtimes) == 1


def test_a_refused_spawn_has_no_effect_and_a_planned_stop_keeps_the_record() -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    with cluster(2) as (first, second):
        identity = Identity.generate()
        handle = first.spawn("counter", identity)
        first.deliver(handle.origin_hash, numbered(1, 5))
        snapshot = first.snapshot(handle.origin_hash)
        assert snapshot is not None
        for _ in range(2):
            with pytest.raises(NotOwner) as refused:
                second.spawn_with_daemon(identity, DaemonHostConfig(), Counter(), make)
            assert refused.value.owner == first.mesh().node_id
        assert made == []
        assert second.daemon_count() == 0
        first.stop(handle.origin_hash)
        with pytest.raises(NotOwner):
            second.spawn("counter", identity)
        with pytest.raises(NotOwner):
            second.spawn_from_snapshot("counter", identity, snapshot)
        with pytest.raises(AlreadyStored):
            first.spawn("counter", identity)
        again = first.spawn_from_snapshot("counter", identity, snapshot)
        (output,) = first.deliver(again.origin_hash, numbered(2, 2))
        assert output.payload == numbered(2, 7).payload
        owner = first.owner(handle.origin_hash)
        assert owner is not None
        assert (owner.epoch, owner.node_id, owner.reason) == (1, first.mesh().node_id, "spawn")


def test_an_event_for_a_daemon_elsewhere_names_its_owner() -> None:
    with cluster(2) as (first, second):
        handle = second.spawn("counter", Identity.generate())
        with pytest.raises(NotOwner) as elsewhere:
            first.deliver(handle.origin_hash, numbered(1))
        assert (elsewhere.value.owner, elsewhere.value.epoch) == (second.mesh().node_id, 1)


def test_records_are_bound_to_each_other_and_are_what_an_exported_chain_shows(tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / name) for name in ("one", "two")]
    identity = Identity.generate()
    with cluster(2, stores) as (_, second):
        handle = second.spawn("counter", identity, DaemonHostConfig(durability="snapshot"))
        second.deliver(handle.origin_hash, numbered(1))
    with cluster(2, stores) as (first, second):
        back = second.recover().daemons[identity.origin_hash]
        assert (back.epoch, back.error) == (2, None)
        second.deliver(identity.origin_hash, numbered(2))
        report = second.export_chain(identity.origin_hash, tmp_path / "chain")
        directory = first.mesh().directory()
        assert directory is not None
        assert second.mesh().directory() is None
        assert directory.node_id == first.mesh().node_id
        spawned, restarted = records = directory.lineage(identity.origin_hash)
        assert [record.reason for record in records] == ["spawn", "restart"]
        assert [(owner.epoch, owner.node) for owner in report.owners] == [
            (record.epoch, record.node) for record in records
        ]
        assert verify_chain(tmp_path / "chain", identity.entity_id).owners == report.owners
        assert list(directory) == [identity.origin_hash]
        assert (len(directory), identity.origin_hash in directory, 7 in directory) == (1, True, False)
        assert directory.owner(identity.origin_hash) == second.owner(identity.origin_hash) == restarted
        assert directory.owner(7) is None
        assert directory.lineage(7) == ()
    for store in stores:
        store.verify()
        store.close()
    spawned.verify()
    restarted.verify(spawned)
    assert (restarted.previous, restarted.source, restarted.migration_id) == (spawned.digest, spawned.node, None)
    assert (spawned.previous, spawned.source, spawned.from_sequence) == (bytes(32), None, 0)
    assert (spawned.entity_id, spawned.certificate.entity_id) == (identity.entity_id, identity.entity_id)
    for record in records:
        assert OwnershipRecord.from_bytes(record.to_bytes()) == pickle.loads(pickle.dumps(record)) == record
        assert hash(record) == hash(OwnershipRecord.from_bytes(record.to_bytes()))
    with pytest.raises(BadSignature, match="the one before is missing"):
        restarted.verify()
    with pytest.raises(BadSignature):
        spawned.verify(restarted, authorities=[spawned.node])
    with pytest.raises(FileDecodeError):
        OwnershipRecord.from_bytes(spawned.to_bytes()[:-1])
    altered = bytearray(spawned.to_bytes())
    altered[-1] ^= 1
    with pytest.raises(BadSignature, match="signature does not fit"):
        OwnershipRecord.from_bytes(altered).verify()
    with pytest.raises(TypeError):
        spawned.verify(spawned.to_bytes())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        spawned.verify(authorities=7)  # type: ignore[arg-type]


def test_a_cluster_of_other_objects_over_the_same_stores_knows_who_owns(tmp_path: Path) -> None:
    identity, config = Identity.generate(), DaemonHostConfig(durability="journal")
    stores = [Store.open(tmp_path / name) for name in ("one", "two")]
    with cluster(2, stores) as (first, _):
        handle = first.spawn("counter", identity, config)
        first.send(handle.origin_hash, numbered(1, 4).payload)
    with cluster(2, stores) as (first, second):
        with pytest.raises(NotOwner):
            second.spawn("counter", identity, config, resume=True)
        handle = first.spawn("counter", identity, config, resume=True)
        (output,) = first.deliver(handle.origin_hash, numbered(1, 3))
        assert output.payload == numbered(1, 7).payload
        assert handle.stats.events_processed == 2
    for store in stores:
        store.close()


def test_a_node_that_stood_still_says_nothing_until_it_has_its_lease_again() -> None:
    with cluster(2) as (first, second):
        handle = second.spawn("counter", Identity.generate())
        _mesh_pause(second.mesh(), True)

        def outcome() -> MeshOsError:
            # A zero raises while the lease is there, and takes no effect.
            with pytest.raises((ProcessFailed, Unavailable)) as raised:
                second.deliver(handle.origin_hash, numbered(1, 0))
            return raised.value

        eventually(lambda: isinstance(outcome(), Unavailable))
        with pytest.raises(Unavailable) as out:
            second.send(handle.origin_hash, numbered(2).payload)
        assert (out.value.target, out.value.retryable) == (first.mesh().node_id, True)
        assert handle.stats.events_processed == 0
        _mesh_pause(second.mesh(), False)

        def is_back() -> bool:
            try:
                return len(second.deliver(handle.origin_hash, numbered(2))) == 1
            except Unavailable:
                return False

        eventually(is_back)
        assert second.send(handle.origin_hash, numbered(3).payload).processed == 2
        assert second.mesh().ownership_stats().lapses == 1


def test_a_directory_that_closes_in_the_middle_of_a_spawn_is_unavailable_in_time() -> None:
    with cluster(2) as (first, second):
        _mesh_pause(first.mesh(), True)
        began = time.monotonic()
        closing = threading.Timer(0.2, first.mesh().close)
        closing.start()
        with pytest.raises(Unavailable) as silent:
            second.spawn("counter", Identity.generate())
        assert time.monotonic() - began < CLAIM_WAIT + 2
        assert silent.value.target == first.mesh().node_id
        assert second.daemon_count() == 0
        closing.join()


def test_ctrl_c_ends_the_wait_of_a_spawn() -> None:
    with cluster(2) as (first, second):
        _mesh_pause(first.mesh(), True)
        began = time.monotonic()
        interrupt = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            second.spawn("counter", Identity.generate())
        assert time.monotonic() - began < CLAIM_WAIT - 1
        assert second.daemon_count() == 0
        interrupt.join()


def test_forged_and_foreign_messages_have_no_effect_and_are_counted() -> None:
    with cluster(3) as (first, second, third):
        handle = second.spawn("counter", Identity.generate())
        record = first.owner(handle.origin_hash)
        assert record is not None

        def message(kind: int, body: bytes) -> bytes:
            frame = bytes([1, kind]) + bytes(16) + body
            return b"\x01" + len(frame).to_bytes(4, "little") + frame

        forged = bytearray(record.to_bytes())
        forged[-1] ^= 1
        directory, node = first.mesh().entity_id, second.mesh().entity_id
        bodies = [
            (directory, b""),
            (directory, b"\x01"),
            (directory, message(99, b"")),
            (directory, message(64, bytes(4))),
            (directory, message(66, bytes(forged))),
            (directory, message(66, record.to_bytes())),
            (node, message(68, record.to_bytes())),
            (node, message(66, record.to_bytes())),
        ]
        for to, body in bodies:
            assert _ownership_post(third.mesh(), to, body)

        def counted() -> bool:
            at_directory, at_node = (runtime.mesh().ownership_stats() for runtime in (first, second))
            found = at_directory.refused_malformed, at_directory.refused_forged, at_directory.foreign
            return (*found, at_node.refused_stranger) == (4, 1, 1, 2)

        eventually(counted)
        assert len(second.deliver(handle.origin_hash, numbered(1))) == 1
        assert first.owner(handle.origin_hash) == record


def test_a_node_that_is_alone_has_none_of_it() -> None:
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("echo", Echo)
        runtime.start()
        handle = runtime.spawn("echo", Identity.generate())
        assert runtime.owner(handle.origin_hash) is None
        assert runtime.mesh().directory() is None
        names = [name for name in dir(OwnershipStats) if not name.startswith("_")]
        assert [getattr(runtime.mesh().ownership_stats(), name) for name in names] == [0] * len(names)
        with pytest.raises(TypeError):
            runtime.owner("7")  # type: ignore[arg-type]
