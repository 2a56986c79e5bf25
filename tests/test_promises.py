"""The promises of the project, as far as they hold today: one node, no store."""

import asyncio
import struct
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemons import PATIENCE, SOON, Counter, Echo, Gated, Running, event, in_thread, node, numbered, spawned, witnessed
from meshos import CausalEvent, DaemonHostConfig, Identity, MeshDaemon, Output, Receipt, StateSnapshot, verify_chain
from meshos.chain import CausalChainBuilder
from meshos.errors import (
    BrokenLink,
    ChainError,
    FileDecodeError,
    MeshOsError,
    ProcessFailed,
    SendTimeout,
    SnapshotDecodeError,
    StaleSnapshot,
)
from meshos.events import Crashed, Registered, Unregistered


def one(value: int = 1) -> bytes:
    return struct.pack("<q", value)


def read(receipt: Receipt) -> tuple[int, int, bytes]:
    return receipt.processed, receipt.sequence, receipt.head


# ---------------------------------------------------------------- 1: nothing lost, nothing twice


def test_promise_1_every_acknowledged_event_takes_effect_once() -> None:
    daemon = Counter()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        def work(number: int) -> list[Receipt]:
            # Each event is sent by two threads, and by each of them twice.
            return [
                runtime.send(origin, numbered(turn, 1, origin=number // 2)) for turn in range(1, 51) for _ in range(2)
            ]

        working = [Running(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]
        for each in working:
            each.thread.start()
        receipts = [receipt for each in working for receipt in each.outcome()]  # type: ignore[attr-defined]

        handle = runtime.find(origin)
        assert handle is not None
        assert daemon.total == 4 * 50
        assert (handle.stats.events_processed, handle.stats.events_emitted) == (200, 200)
        assert handle.stats.duplicates == 8 * 50 * 2 - 200
        assert sorted(read(receipt)[:2] for receipt in receipts if not receipt.duplicate) == [
            (number, number) for number in range(1, 201)
        ]
        assert len({(receipt.event_origin, receipt.event_sequence, *read(receipt)) for receipt in receipts}) == 200


@pytest.mark.parametrize("on_error", ["raise", "restore"])
def test_promise_1_a_failed_event_takes_no_effect_and_may_come_again(on_error: str) -> None:
    fails = {3, 5, 6}

    class Fails(Counter):
        name = "counter"

        def process(self, event: CausalEvent) -> Iterable[bytes]:
            outputs = super().process(event)
            if event.sequence in fails:
                fails.remove(event.sequence)
                self.total = -1_000_000 if on_error == "restore" else self.total - 1
                raise ConnectionError("on purpose")
            return outputs

    with node(counter=Fails) as runtime:
        config = DaemonHostConfig(on_error=on_error, max_log_entries=2)  # type: ignore[arg-type]
        handle = runtime.spawn("counter", Identity.generate(), config)
        payloads = []
        for number in range(1, 9):
            try:
                (output,) = runtime.deliver(handle.origin_hash, numbered(number))
            except ProcessFailed:
                (output,) = runtime.deliver(handle.origin_hash, numbered(number))
            payloads.append(output.payload)

        assert payloads == [one(number) for number in range(1, 9)]
        assert (handle.stats.events_processed, handle.stats.errors, handle.stats.duplicates) == (8, 3, 0)


def test_promise_1_a_timed_out_event_takes_effect_once_however_often_it_is_sent() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.send(origin, b"block")):
            assert daemon.entered.wait(PATIENCE)
            with pytest.raises(SendTimeout) as late:
                runtime.send(origin, b"once", timeout=SOON)
            for _ in range(5):
                with pytest.raises(SendTimeout) as again:
                    runtime.send(origin, late.value.event, timeout=timedelta(milliseconds=1))
                assert again.value.event == late.value.event
            daemon.leave.set()

        receipts = [runtime.send(origin, late.value.event) for _ in range(3)]

        assert daemon.seen == [b"block", b"once"]
        assert len(set(receipts)) == 1


def test_promise_1_a_daemon_continues_where_it_stopped() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        outputs = []
        for generation in range(5):
            for turn in range(1, 11):
                number = 10 * generation + turn
                outputs += runtime.deliver(origin, numbered(number))
                assert runtime.deliver(origin, numbered(number)) == []
            snapshot = runtime.snapshot(origin)
            assert snapshot is not None
            runtime.stop(origin)
            handle = runtime.spawn_from_snapshot("counter", identity, StateSnapshot.from_bytes(snapshot.to_bytes()))
            assert runtime.deliver(origin, numbered(10 * generation + 10)) == []

        assert [output.payload for output in outputs] == [one(number) for number in range(1, 51)]
        assert [output.sequence for output in outputs] == list(range(1, 51))
        assert (handle.stats.events_processed, handle.stats.restarts) == (50, 0)
        assert runtime.send(origin, one()).epoch == 1


def test_promise_1_what_is_known_of_a_daemon_is_never_forgotten_by_a_spawn() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        first = runtime.snapshot(origin)
        assert first is not None
        runtime.send(origin, one())
        runtime.stop(origin)

        with pytest.raises(StaleSnapshot):
            runtime.spawn_from_snapshot("counter", identity, first)

        assert runtime.daemon_count() == 0


def test_promise_1_holds_for_coroutines_that_fail_half_way() -> None:
    class Half(MeshDaemon):
        fails = True

        async def process(self, event: CausalEvent) -> list[Output]:
            await asyncio.sleep(0)
            if event.payload == b"half" and self.fails:
                self.fails = False
                raise ConnectionError("on purpose")
            return [Output(event.payload)]

    with node() as runtime:
        origin = spawned(runtime, Half())
        with pytest.raises(ProcessFailed):
            runtime.send_many(origin, [event(1, b"one"), event(2, b"half"), event(3, b"three")])

        receipts = runtime.send_many(origin, [event(1, b"one"), event(2, b"half"), event(3, b"three")])

        assert [receipt.sequence for receipt in receipts] == [1, 2, 3]
        assert [receipt.duplicate for receipt in receipts] == [True, False, False]


# ---------------------------------------------------------------- 3: provable


def exported(
    folder: Path, words: Iterable[bytes] = (b"nothing", b"lost", b"nothing", b"twice")
) -> tuple[Path, Identity, list[Receipt]]:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity).origin_hash
        receipts = [runtime.send(origin, word) for word in words]
        runtime.export_chain(origin, folder / "chain")
    return folder / "chain", identity, receipts


def test_promise_3_an_export_is_proved_by_the_public_key_alone(tmp_path: Path) -> None:
    file, identity, receipts = exported(tmp_path)

    report = verify_chain(file, identity.entity_id, receipts=receipts)

    builder = CausalChainBuilder(identity.entity_id)
    assert (report.entity_id, report.events, report.signed_through) == (identity.entity_id, 4, 4)
    assert (report.first_sequence, report.last_sequence) == (1, 4)
    assert report.digest == receipts[-1].head != builder.head_digest
    assert [(span.epoch, span.first_sequence, span.last_sequence) for span in report.owners] == [(1, 1, 4)]


def test_promise_3_an_altered_byte_is_refused_wherever_it_is(tmp_path: Path) -> None:
    file, identity, _ = exported(tmp_path)
    data = file.read_bytes()

    for at in range(len(data)):
        for bit in (1, 0x80):
            file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            with pytest.raises(ChainError):
                verify_chain(file, identity.entity_id)


def test_promise_3_a_truncated_export_is_refused_at_every_length(tmp_path: Path) -> None:
    file, identity, _ = exported(tmp_path)
    data = file.read_bytes()

    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(ChainError):
            verify_chain(file, identity.entity_id)
    file.write_bytes(data + b"\0")
    with pytest.raises(FileDecodeError):
        verify_chain(file, identity.entity_id)


def test_promise_3_another_key_proves_nothing(tmp_path: Path) -> None:
    file, _, _ = exported(tmp_path)

    with pytest.raises(ChainError):
        verify_chain(file, Identity.generate().entity_id)


def test_promise_3_a_receipt_that_was_never_given_is_refused(tmp_path: Path) -> None:
    file, identity, receipts = exported(tmp_path)
    last = receipts[-1]

    def forged(**changed: object) -> Receipt:
        values = {
            "origin_hash": last.origin_hash,
            "epoch": last.epoch,
            "processed": last.processed,
            "sequence": last.sequence,
            "head": last.head,
            "event_origin": last.event_origin,
            "event_sequence": last.event_sequence,
        }
        return Receipt(**{**values, **changed})  # type: ignore[arg-type]

    verify_chain(file, identity.entity_id, receipts=[forged()])
    for receipt in (forged(head=bytes(32)), forged(sequence=3), forged(sequence=5), forged(origin_hash=7)):
        with pytest.raises(BrokenLink):
            verify_chain(file, identity.entity_id, receipts=[*receipts, receipt])


def test_promise_3_a_chain_over_restarts_and_a_rollback_says_who_spoke_when(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        kept = runtime.send_many(origin, [one()] * 3)
        old = runtime.snapshot(origin)
        assert old is not None
        lost = runtime.send(origin, one(7))
        runtime.stop(origin)
        runtime.spawn_from_snapshot("counter", identity, old, rewind=True)
        new = runtime.send_many(origin, [one()] * 2)
        runtime.export_chain(origin, tmp_path / "chain")

    report = verify_chain(tmp_path / "chain", identity.entity_id, receipts=new)

    assert [receipt.epoch for receipt in kept + new] == [1, 1, 1, 2, 2]
    assert (report.owners[-1].epoch, report.last_sequence) == (2, 5)
    with pytest.raises(BrokenLink):
        verify_chain(tmp_path / "chain", identity.entity_id, receipts=[lost])


@settings(max_examples=25, deadline=None)
@given(words=st.lists(st.binary(max_size=40), max_size=12))
def test_promise_3_holds_for_whatever_was_emitted(words: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    file, identity, receipts = exported(tmp_path_factory.mktemp("chain"), words)

    report = verify_chain(file, identity.entity_id, receipts=receipts)

    assert (report.events, report.last_sequence) == (len(words), len(words))


# ---------------------------------------------------------------- 5: never silent


def test_promise_5_every_failure_of_user_code_is_raised_counted_and_told() -> None:
    with node(counter=Counter) as runtime:
        witness = witnessed(runtime.daemon_registry())
        handle = runtime.spawn("counter", Identity.generate(), DaemonHostConfig(on_error="restore"))

        for number in (1, 2, 3):
            with pytest.raises(ProcessFailed):
                runtime.send(handle.origin_hash, numbered(number, 0))
        runtime.stop(handle.origin_hash)

        crash = Crashed("process raised ZeroDivisionError: on purpose")
        assert witness.signals(5) == [Registered(), crash, crash, crash, Unregistered()]
        assert (handle.stats.errors, handle.stats.restarts) == (3, 3)


def test_promise_5_a_state_that_cannot_be_rebuilt_is_told_and_takes_nothing_more() -> None:
    class Forgets(Counter):
        name = "counter"
        broken = False

        def restore(self, state: bytes) -> None:
            if Forgets.broken:
                raise LookupError("gone")
            super().restore(state)

    with node(counter=Forgets) as runtime:
        witness = witnessed(runtime.daemon_registry())
        handle = runtime.spawn("counter", Identity.generate(), DaemonHostConfig(on_error="restore"))
        Forgets.broken = True

        with pytest.raises(ProcessFailed, match="gone"):
            runtime.send(handle.origin_hash, one(0))
        for call in (runtime.send, runtime.deliver):
            with pytest.raises(MeshOsError, match="gone"):
                call(handle.origin_hash, numbered(1))

        assert [type(signal) for signal in witness.signals(3)] == [Registered, Crashed, Crashed]


def test_promise_5_a_bad_snapshot_is_refused_bit_by_bit() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send(origin, one())
        snapshot = runtime.snapshot(origin)
        assert snapshot is not None
        data = snapshot.to_bytes()

    for at in range(len(data)):
        with pytest.raises(SnapshotDecodeError):
            StateSnapshot.from_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(SnapshotDecodeError):
            StateSnapshot.from_bytes(data[:at])


def test_promise_5_dropped_outputs_are_told_by_the_export(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity, DaemonHostConfig(outputs_bytes_max=10)).origin_hash
        runtime.send_many(origin, [b"12345"] * 7)

        report = runtime.export_chain(origin, tmp_path / "chain")

    assert (report.first_sequence, report.events) == (6, 2)
    assert verify_chain(tmp_path / "chain", identity.entity_id).first_sequence == 6


def test_promise_5_a_wait_for_a_daemon_has_an_end() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))):
            assert daemon.entered.wait(PATIENCE)
            with pytest.raises(SendTimeout):
                runtime.send_many(origin, [b"one", b"two"], timeout=SOON)
            daemon.leave.set()

        handle = runtime.find(origin)
        assert handle is not None
        assert runtime.send(origin, b"after").processed == handle.stats.events_processed
