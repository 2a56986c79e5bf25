"""The `_async` twins: same results, order, cancellation, and loops that close, differ or are the daemon's own."""

import asyncio
import gc
import struct
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from daemons import PATIENCE, SOON, Counter, Echo, Gated, event, in_thread, node, numbered, spawned
from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, Receipt, verify_chain
from meshos.control import BackpressureOn, DaemonControl
from meshos.errors import (
    AlreadyRegistered,
    AlreadyStored,
    DaemonNotFound,
    FactoryNotFound,
    InvalidArgument,
    LoopClosed,
    NotReady,
    ProcessFailed,
    ReentrantCallError,
    SendTimeout,
    ShuttingDown,
    SnapshotFailed,
    StaleSnapshot,
    WaitTimeout,
)

T = TypeVar("T")


def run(main: Coroutine[object, None, T]) -> T:
    """Run on a fresh loop, and end the test if it never ends."""

    async def bounded() -> T:
        return await asyncio.wait_for(main, PATIENCE)

    return asyncio.run(bounded())


@asynccontextmanager
async def async_node(**factories: Callable[[], MeshDaemon]) -> AsyncIterator[DaemonRuntime]:
    async with DaemonRuntime(Mesh.local()) as runtime:
        for kind, factory in factories.items():
            runtime.register_factory(kind, factory)
        await runtime.start_async()
        yield runtime


def one(value: int = 1) -> bytes:
    return struct.pack("<q", value)


class Async(MeshDaemon):
    """A coroutine that stays inside, on `block`, until it is told to leave; remembers where it ran."""

    name = "async"

    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.leave: asyncio.Event | None = None
        self.seen: list[bytes] = []

    async def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.loops.append(asyncio.get_running_loop())
        if event.payload == b"block":
            self.leave = asyncio.Event()
            self.entered.set()
            try:
                await self.leave.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        await asyncio.sleep(0)
        self.seen.append(event.payload)
        return [event.payload]

    def let_go(self) -> None:
        assert self.leave is not None
        self.loops[-1].call_soon_threadsafe(self.leave.set)


async def until(condition: threading.Event) -> None:
    """Wait for a thread without blocking the loop."""
    assert await asyncio.to_thread(condition.wait, PATIENCE)


# ---------------------------------------------------------------- same as the plain form


def test_every_twin_does_what_its_plain_form_does(tmp_path: Path) -> None:
    identity, config = Identity.generate(), DaemonHostConfig()
    controls: list[DaemonControl] = []

    class Controlled(Counter):
        def on_control(self, control: DaemonControl) -> None:
            controls.append(control)

    async def main() -> None:
        async with async_node(counter=Controlled) as runtime:
            handle = await runtime.spawn_async("counter", identity)
            origin = handle.origin_hash
            assert runtime.find(origin) == handle
            receipt = await runtime.send_async(origin, one(1))
            assert (receipt.processed, receipt.sequence) == (1, 1)
            receipts = await runtime.send_many_async(origin, [one(2), one(3)])
            assert [each.sequence for each in receipts] == [2, 3]
            outputs = await runtime.deliver_async(origin, numbered(1, 4))
            assert [output.payload for output in outputs] == [one(10)]
            assert await runtime.deliver_async(origin, numbered(1, 4)) == []
            batches = await runtime.deliver_many_async(origin, [numbered(2, 5), numbered(3, 6)])
            assert [[output.payload for output in each] for each in batches] == [[one(15)], [one(21)]]
            assert await runtime.with_daemon_async(origin, Counter, lambda daemon: daemon.total) == 21
            await runtime.control_async(origin, BackpressureOn(0.5))
            assert controls == [BackpressureOn(0.5)]
            assert await runtime.newest_snapshot_async(origin) is None
            snapshot = await runtime.snapshot_async(origin)
            assert snapshot is not None
            assert await runtime.newest_snapshot_async(origin) == snapshot
            again = await handle.snapshot_async()
            assert again is not None
            assert (again.state, again.sequence) == (one(21), 6)
            report = await runtime.export_chain_async(origin, tmp_path / "chain")
            assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=[receipt, *receipts]) == report
            await runtime.stop_async(origin)
            assert runtime.daemon_count() == 0

            await runtime.spawn_from_snapshot_async("counter", identity, snapshot)
            await runtime.stop_async(origin)
            await runtime.spawn_from_snapshot_with_daemon_async(
                identity, snapshot, config, Controlled(), Controlled, kind="counter"
            )
            assert (await runtime.send_async(origin, one(1))).sequence == 7
            other = await runtime.spawn_with_daemon_async(Identity.generate(), config, Echo(), Echo, kind="echo")
            assert other.kind == "echo"
            assert runtime.daemon_count() == 2
        assert (runtime.is_ready(), runtime.daemon_count()) == (False, 0)

    run(main())


def test_every_twin_raises_what_its_plain_form_raises(tmp_path: Path) -> None:
    async def main() -> None:
        runtime = DaemonRuntime(Mesh.local())
        runtime.register_factory("counter", Counter)
        with pytest.raises(NotReady):
            await runtime.send_async(7, b"")
        with pytest.raises(NotReady):
            await runtime.spawn_async("counter", Identity.generate())
        await runtime.start_async()
        identity = Identity.generate()
        origin = (await runtime.spawn_async("counter", identity)).origin_hash
        await runtime.send_async(origin, one())
        old = await runtime.snapshot_async(origin)
        assert old is not None
        await runtime.send_async(origin, one())

        with pytest.raises(AlreadyRegistered):
            await runtime.spawn_async("counter", identity)
        with pytest.raises(FactoryNotFound):
            await runtime.spawn_async("nobody", Identity.generate())
        for missing in (
            runtime.stop_async(7),
            runtime.snapshot_async(7),
            runtime.newest_snapshot_async(7),
            runtime.export_chain_async(7, tmp_path / "x"),
            runtime.with_daemon_async(7, Counter, repr),
            runtime.deliver_many_async(7, [event(1)]),
            runtime.send_many_async(7, [b""]),
        ):
            with pytest.raises(DaemonNotFound):
                await missing
        for soon in (lambda: runtime.send_async(7, b""), lambda: runtime.deliver_async(7, event(1))):
            with pytest.raises(DaemonNotFound):
                await soon()
        with pytest.raises(ProcessFailed) as failed:
            await runtime.send_async(origin, one(0))
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        with pytest.raises(ProcessFailed) as failed:
            await runtime.deliver_many_async(origin, [numbered(1, 1), numbered(2, 0)])
        assert len(failed.value.outputs) == 1
        with pytest.raises(TypeError):
            await runtime.send_async(origin, "text")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await runtime.deliver_async(-1, event(1))
        await runtime.stop_async(origin)
        with pytest.raises(StaleSnapshot):
            await runtime.spawn_from_snapshot_async("counter", identity, old)
        with pytest.raises(AlreadyStored):
            await runtime.spawn_async("counter", identity)

        await runtime.shutdown_async()
        with pytest.raises(ShuttingDown):
            await runtime.send_async(origin, b"")
        with pytest.raises(ShuttingDown):
            await runtime.start_async()
        await runtime.shutdown_async()

    run(main())


def test_a_snapshot_that_fails_in_a_twin_has_its_cause() -> None:
    class Broken(Counter):
        def snapshot(self) -> bytes:
            raise OSError("disk full")

    async def main() -> None:
        async with async_node(broken=Broken) as runtime:
            handle = await runtime.spawn_async("broken", Identity.generate())
            with pytest.raises(SnapshotFailed) as failed:
                await handle.snapshot_async()
            assert isinstance(failed.value.__cause__, OSError)

    run(main())


def test_a_shutdown_that_gives_up_says_so_in_its_twin() -> None:
    daemon = Gated()

    async def main() -> None:
        runtime = DaemonRuntime(Mesh.local())
        await runtime.start_async()
        origin = spawned(runtime, daemon)
        waiting = asyncio.create_task(runtime.send_async(origin, b"block"))
        await until(daemon.entered)

        with pytest.raises(WaitTimeout):
            await runtime.shutdown_async(timeout=SOON)

        daemon.leave.set()
        await asyncio.wait([waiting])
        if waiting.exception() is None:
            assert waiting.result().processed == 1

    run(main())


# ---------------------------------------------------------------- order and load


def test_concurrent_sends_take_effect_in_the_order_in_which_they_begin() -> None:
    class Keeps(MeshDaemon):
        def __init__(self) -> None:
            self.seen: list[bytes] = []

        async def process(self, event: CausalEvent) -> Iterable[bytes]:
            await asyncio.sleep(0)
            self.seen.append(event.payload)
            return [event.payload]

    payloads = [one(number) for number in range(300)]

    async def main() -> None:
        for daemon in (Keeps(), Gated()):
            async with async_node() as runtime:
                origin = spawned(runtime, daemon)
                receipts = await asyncio.gather(*(runtime.send_async(origin, payload) for payload in payloads))

                assert [receipt.sequence for receipt in receipts] == list(range(1, 301))
                assert [receipt.event_sequence for receipt in receipts] == list(range(1, 301))
                assert daemon.seen == payloads

    run(main())


def test_tasks_of_many_kinds_may_be_made_of_a_send() -> None:
    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, Echo())
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(runtime.send_async(origin, b"")) for _ in range(3)]
            assert [task.result().sequence for task in tasks] == [1, 2, 3]
            assert (await asyncio.wait_for(runtime.send_async(origin, b""), 5)).sequence == 4
            assert (await asyncio.shield(runtime.send_async(origin, b""))).sequence == 5
            outputs = await asyncio.create_task(runtime.deliver_async(origin, event(1, b"x")))
            assert outputs[0].sequence == 6

    run(main())


def test_the_loop_goes_on_while_a_daemon_is_busy() -> None:
    daemon = Gated()

    async def main() -> None:
        async with async_node() as runtime:
            busy, free = spawned(runtime, daemon), spawned(runtime, Echo())
            waiting = asyncio.ensure_future(runtime.deliver_async(busy, event(1, b"block")))
            await until(daemon.entered)

            assert (await runtime.send_async(free, b"free")).processed == 1
            assert not waiting.done()
            daemon.leave.set()
            assert len(await waiting) == 1

    run(main())


# ---------------------------------------------------------------- timeouts and cancellation


def test_a_timed_out_send_can_be_continued_as_the_same_event() -> None:
    daemon = Gated()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            blocking = asyncio.create_task(runtime.send_async(origin, b"block"))
            await until(daemon.entered)
            with pytest.raises(SendTimeout) as late:
                await runtime.send_async(origin, b"once", timeout=SOON)
            with pytest.raises(SendTimeout):
                await runtime.send_async(origin, late.value.event, timeout=timedelta(0))
            daemon.leave.set()
            await blocking

            receipt = await runtime.send_async(late.value.origin_hash, late.value.event)

            assert receipt.duplicate
            assert daemon.seen == [b"block", b"once"]

    run(main())


def test_a_timed_out_event_has_the_bytes_it_was_sent_with() -> None:
    daemon, buffer = Gated(), bytearray(b"before")

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            blocking = asyncio.create_task(runtime.send_async(origin, b"block"))
            await until(daemon.entered)
            late = asyncio.ensure_future(runtime.send_async(origin, buffer, timeout=SOON))
            await asyncio.sleep(0)
            buffer[:] = b"later!"
            with pytest.raises(SendTimeout) as timed_out:
                await late

            assert timed_out.value.event.payload == b"before"
            daemon.leave.set()
            await blocking
            await runtime.send_async(origin, timed_out.value.event)
            assert daemon.seen == [b"block", b"before"]

    run(main())


@pytest.mark.parametrize("timeout", [timedelta(seconds=-1), 5, "5"])
def test_a_wrong_timeout_sends_nothing(timeout: object) -> None:
    async def main() -> None:
        async with async_node(counter=Counter) as runtime:
            handle = await runtime.spawn_async("counter", Identity.generate())
            with pytest.raises((TypeError, InvalidArgument)):
                await runtime.send_async(handle.origin_hash, one(), timeout=timeout)  # type: ignore[arg-type]
            with pytest.raises((TypeError, InvalidArgument)):
                await runtime.send_many_async(handle.origin_hash, [one()], timeout=timeout)  # type: ignore[arg-type]
            assert (await runtime.send_async(handle.origin_hash, one(), timeout=None)).processed == 1

    run(main())


@pytest.mark.parametrize("call", ["send", "deliver"])
def test_a_call_cancelled_before_the_daemon_took_it_has_no_effect(call: str) -> None:
    daemon = Gated()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            blocking = asyncio.create_task(runtime.send_async(origin, b"block"))
            await until(daemon.entered)
            if call == "send":
                waiting: asyncio.Future[Receipt] | asyncio.Future[list[CausalEvent]] = asyncio.ensure_future(
                    runtime.send_async(origin, b"never")
                )
            else:
                waiting = asyncio.ensure_future(runtime.deliver_async(origin, event(1, b"never")))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            daemon.leave.set()
            await blocking

            assert (await runtime.send_async(origin, b"after")).processed == 2
            assert daemon.seen == [b"block", b"after"]

    run(main())


@pytest.mark.parametrize("call", ["send", "deliver"])
def test_a_call_cancelled_after_the_daemon_took_it_has_its_effect(call: str) -> None:
    daemon = Gated()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            if call == "send":
                waiting: asyncio.Future[Receipt] | asyncio.Future[list[CausalEvent]] = asyncio.create_task(
                    runtime.send_async(origin, b"block")
                )
            else:
                waiting = asyncio.ensure_future(runtime.deliver_async(origin, event(1, b"block")))
            await until(daemon.entered)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            daemon.leave.set()

            assert (await runtime.send_async(origin, b"after")).processed == 2
            assert daemon.seen == [b"block", b"after"]

    run(main())


def test_cancelling_a_send_does_not_cancel_the_coroutine_of_the_daemon() -> None:
    daemon = Async()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            waiting = asyncio.create_task(runtime.send_async(origin, b"block"))
            await until(daemon.entered)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            daemon.let_go()

            assert (await runtime.send_async(origin, b"after")).processed == 2
            assert not daemon.cancelled.is_set()

    run(main())


def test_a_call_on_a_lane_may_be_cancelled_and_goes_on() -> None:
    daemon = Gated()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            waiting = asyncio.ensure_future(runtime.send_many_async(origin, [b"block", b"next"]))
            await until(daemon.entered)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            daemon.leave.set()

            assert (await runtime.send_async(origin, b"after")).sequence == 3
            assert daemon.seen == [b"block", b"next", b"after"]

    run(main())


# ---------------------------------------------------------------- loops


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run a loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def test_coroutines_run_on_the_loop_that_started_the_runtime() -> None:
    daemon = Async()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            await runtime.send_async(origin, b"one")
            await runtime.deliver_async(origin, event(1, b"two"))
            await asyncio.to_thread(runtime.deliver, origin, event(2, b"three"))
            await asyncio.to_thread(runtime.send, origin, b"four")
            assert set(daemon.loops) == {asyncio.get_running_loop()}
            assert daemon.seen == [b"one", b"two", b"three", b"four"]

    run(main())


def test_coroutines_run_on_a_loop_of_meshos_when_started_without_one() -> None:
    daemon = Async()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        runtime.send(origin, b"one")
        runtime.deliver(origin, event(1, b"two"))

        async def main() -> None:
            await runtime.send_async(origin, b"three")
            # A loop that is not the daemon's may wait for it.
            runtime.deliver(origin, event(2, b"four"))
            assert asyncio.get_running_loop() not in daemon.loops

        run(main())
        assert len(set(daemon.loops)) == 1
        assert daemon.seen == [b"one", b"two", b"three", b"four"]


def test_coroutines_run_on_the_loop_given_to_the_runtime() -> None:
    daemon = Async()
    with running_loop() as loop, DaemonRuntime(Mesh.local(), loop=loop) as runtime:
        runtime.start()
        origin = spawned(runtime, daemon)
        runtime.deliver(origin, event(1, b"one"))

        async def main() -> None:
            await runtime.send_async(origin, b"two")

        run(main())
        assert set(daemon.loops) == {loop}


def test_two_loops_await_the_same_daemon() -> None:
    with node(counter=Counter) as runtime, running_loop() as other:
        origin = spawned(runtime, Counter())

        async def many() -> list[Receipt]:
            return list(await asyncio.gather(*(runtime.send_async(origin, one()) for _ in range(50))))

        elsewhere = asyncio.run_coroutine_threadsafe(many(), other)
        here = run(many())
        there = elsewhere.result(PATIENCE)

        assert sorted(receipt.sequence for receipt in here + there) == list(range(1, 101))
        for receipts in (here, there):
            assert [receipt.sequence for receipt in receipts] == sorted(receipt.sequence for receipt in receipts)


def test_a_delivery_on_the_loop_of_the_daemon_is_refused() -> None:
    daemon = Async()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)

            with pytest.raises(ReentrantCallError):
                runtime.deliver(origin, event(1, b"one"))

            handle = runtime.find(origin)
            assert handle is not None
            assert (handle.stats.events_processed, daemon.seen) == (0, [])
            assert len(await runtime.deliver_async(origin, event(1, b"one"))) == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        gc.collect()


def test_a_loop_that_closed_while_its_call_waited_harms_nobody() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        async def main() -> None:
            waiting = asyncio.create_task(runtime.send_async(origin, b"block"))
            lane = asyncio.ensure_future(runtime.snapshot_async(origin))
            await until(daemon.entered)
            waiting.cancel()
            lane.cancel()

        asyncio.run(main())
        loop = asyncio.new_event_loop()

        async def leave() -> None:
            left.append(runtime.send_async(origin, b"left"))

        left: list[object] = []
        loop.run_until_complete(leave())
        loop.close()
        daemon.leave.set()

        assert runtime.send(origin, b"after").processed == 3
        assert daemon.seen == [b"block", b"left", b"after"]


def test_a_loop_that_ends_under_a_coroutine_ends_the_wait() -> None:
    daemon = Async()
    runtime = DaemonRuntime(Mesh.local())

    async def main() -> int:
        await runtime.start_async()
        origin = spawned(runtime, daemon)
        threading.Thread(target=deliver, args=(origin,), daemon=True).start()
        await until(daemon.entered)
        return origin

    ended = threading.Event()
    errors: list[BaseException] = []

    def deliver(origin: int) -> None:
        try:
            runtime.deliver(origin, event(1, b"block"))
        except BaseException as error:
            errors.append(error)
        ended.set()

    asyncio.run(main())

    assert ended.wait(PATIENCE)
    assert isinstance(errors[0], ProcessFailed)
    assert daemon.cancelled.is_set()
    runtime.shutdown()


def test_a_twin_called_without_a_loop_begins_when_it_is_run() -> None:
    with node() as runtime:
        origin = spawned(runtime, Echo())
        sending = runtime.send_async(origin, b"one")
        delivering = runtime.deliver_async(origin, event(1, b"two"))

        outputs = run(delivering)
        receipt = run(sending)

        assert (outputs[0].sequence, receipt.sequence) == (1, 2)


def test_async_with_shuts_down_even_after_an_error() -> None:
    kept: list[DaemonRuntime] = []

    async def main() -> None:
        async with async_node(echo=Echo) as runtime:
            kept.append(runtime)
            await runtime.spawn_async("echo", Identity.generate())
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        run(main())

    (runtime,) = kept
    assert (runtime.is_ready(), runtime.daemon_count()) == (False, 0)


def test_a_thread_delivers_to_a_daemon_on_the_loop_of_another_thread() -> None:
    daemon = Async()
    with running_loop() as loop, DaemonRuntime(Mesh.local(), loop=loop) as runtime:
        runtime.start()
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))) as delivering:
            assert daemon.entered.wait(PATIENCE)
            daemon.let_go()

            outputs = delivering.outcome()

        assert [output.payload for output in outputs] == [b"block"]  # type: ignore[attr-defined]


def test_a_send_on_the_loop_of_the_daemon_is_refused_at_once() -> None:
    daemon = Async()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            calls: list[Callable[[], object]] = [
                lambda: runtime.send(origin, b"one"),
                lambda: runtime.send_many(origin, [b"one"]),
            ]
            for call in calls:
                with pytest.raises(ReentrantCallError):
                    call()
            assert (await runtime.send_async(origin, b"two")).processed == 1

    run(main())


def test_a_stop_on_the_loop_of_a_busy_daemon_is_refused_at_once() -> None:
    daemon = Async()

    async def main() -> None:
        async with async_node() as runtime:
            origin = spawned(runtime, daemon)
            waiting = asyncio.create_task(runtime.send_async(origin, b"block"))
            await until(daemon.entered)
            calls: list[Callable[[], object]] = [
                lambda: runtime.stop(origin),
                lambda: runtime.deliver(origin, event(1)),
                lambda: runtime.newest_snapshot(origin),
            ]
            for call in calls:
                with pytest.raises(ReentrantCallError):
                    call()
            daemon.let_go()
            await waiting

    run(main())


def test_a_daemon_whose_loop_is_closed_says_so() -> None:
    daemon = Async()
    loop = asyncio.new_event_loop()
    with DaemonRuntime(Mesh.local(), loop=loop) as runtime:
        runtime.start()
        origin = spawned(runtime, daemon)
        loop.close()

        for call in (lambda: runtime.deliver(origin, event(1)), lambda: runtime.send(origin, b"")):
            with pytest.raises(ProcessFailed) as failed:
                call()
            assert isinstance(failed.value.__cause__, LoopClosed)
        handle = runtime.find(origin)
        assert handle is not None
        assert handle.stats.events_processed == 0
