"""Recovery handlers: who runs, who is skipped, who is evicted, and what is told of it."""

import asyncio
import functools
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from daemons import PATIENCE, Echo, event, in_thread, node, spawned
from meshos import CausalEvent
from meshos.errors import InvalidArgument, ProcessFailed, ReentrantCallError
from meshos.recovery import RecoveryRegistry, RecoveryStatus
from records import NOON, check_record


class Counted:
    """A handler that counts its calls, and answers with `slots` or raises."""

    def __init__(self, *slots: int, error: BaseException | None = None) -> None:
        self.slots = slots
        self.error = error
        self.calls = 0

    def __call__(self) -> Sequence[int]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.slots


# ---------------------------------------------------------------- the contract


def test_slots_are_collected_and_a_handler_that_raises_is_evicted() -> None:
    registry = RecoveryRegistry()
    assert registry.is_empty()
    good, bad = Counted(0, 1), Counted(error=RuntimeError("simulated"))
    assert registry.register(good, strikes=1) == 1
    assert registry.register(bad, strikes=1) == 2
    assert len(registry) == 2

    assert registry.try_run_all() == (0, 1)
    assert (len(registry), good.calls, bad.calls) == (1, 1, 1)

    assert registry.try_run_all() == (0, 1)
    assert (len(registry), good.calls, bad.calls) == (1, 2, 1)


def test_a_handler_may_register_another_which_runs_the_next_time() -> None:
    registry = RecoveryRegistry()
    seen = []

    def outer() -> Sequence[int]:
        seen.append((len(registry), registry.is_empty(), registry.register(Counted(99), strikes=1)))
        return [7]

    registry.register(outer, strikes=1)

    assert registry.try_run_all() == (7,)
    assert seen == [(1, False, 2)]
    assert len(registry) == 2
    assert registry.unregister(outer)
    assert registry.try_run_all() == (99,)


def test_registering_does_not_wait_for_a_handler_and_the_count_is_never_short() -> None:
    registry = RecoveryRegistry()
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> Sequence[int]:
        inside.set()
        assert go_on.wait(PATIENCE)
        return [0]

    registry.register(slow, strikes=1)
    with in_thread(registry.try_run_all) as running:
        assert inside.wait(PATIENCE)
        # The handler goes on only after this: a call that waited for it would never return.
        assert len(registry) == 1
        assert registry.register(Counted(42), strikes=1) == 2
        assert registry.try_run_all() == (42,), "a second run skips the handler that is running"
        go_on.set()
        assert running.outcome() == (0,)
    assert len(registry) == 2


# ---------------------------------------------------------------- strikes and status


def test_three_raises_in_a_row_evict_and_a_success_starts_over() -> None:
    registry = RecoveryRegistry()
    handler = Counted(5)
    registry.register(handler)
    for error in (ValueError("a"), KeyError("b"), None, ValueError("c"), ValueError("d")):
        handler.error = error
        registry.try_run_all()
        assert len(registry) == 1
    registry.try_run_all()

    assert registry.is_empty()


def test_status_says_how_a_handler_is_doing() -> None:
    registry = RecoveryRegistry()
    before = datetime.now(UTC) - timedelta(milliseconds=10)
    handler = Counted(3, 4)
    registry.register(handler, name="group")
    (fresh,) = registry.status()
    registry.try_run_all()
    handler.error = ValueError("two\nlines")
    registry.try_run_all()
    (status,) = registry.status()

    assert fresh == RecoveryStatus(
        name="group", runs=0, recovered=0, strikes=0, last_error=None, last_run_at=None, last_took=timedelta(0)
    )
    assert (status.name, status.runs, status.recovered, status.strikes) == ("group", 2, 2, 1)
    assert status.last_error == "Counted raised ValueError: two lines"
    assert status.last_run_at is not None
    assert before <= status.last_run_at <= datetime.now(UTC)
    assert status.last_took >= timedelta(0)


def test_a_status_is_a_record() -> None:
    fields: dict[str, object] = {
        "name": "group",
        "runs": 3,
        "recovered": 2,
        "strikes": 1,
        "last_error": "no",
        "last_run_at": NOON,
        "last_took": timedelta(milliseconds=3),
    }
    check_record(RecoveryStatus(**fields), fields, by_keyword=True)  # type: ignore[arg-type]


def test_what_is_raised_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    registry = RecoveryRegistry()
    registry.register(Counted(error=ValueError("on purpose")))
    with caplog.at_level(logging.ERROR, "meshos"):
        registry.try_run_all()

    (record,) = caplog.records
    assert record.name == "meshos"
    assert record.getMessage() == "callback Counted: Counted raised ValueError: on purpose"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.parametrize("slots", [None, 7, "ab", [256], [-1], [1.5], [True], range(257)])
def test_what_is_no_sequence_of_slots_is_a_strike(slots: object) -> None:
    registry = RecoveryRegistry()
    registry.register(lambda: slots, strikes=1)  # type: ignore[arg-type, return-value]

    assert registry.try_run_all() == ()
    assert registry.is_empty()


@pytest.mark.parametrize("slots", [[], (1, 2), bytes([3, 4]), range(256), iter([5])])
def test_slots_may_come_in_any_iterable(slots: Sequence[int]) -> None:
    registry = RecoveryRegistry()
    expected = tuple(slots) if not hasattr(slots, "__next__") else (5,)
    registry.register(lambda: slots, strikes=1)

    assert registry.try_run_all() == expected


# ---------------------------------------------------------------- work


class Working(Counted):
    """Says first whether there is work."""

    def __init__(self, *slots: int, work: object) -> None:
        super().__init__(*slots)
        self.work = work

    def has_work(self) -> bool:
        if isinstance(self.work, BaseException):
            raise self.work
        return self.work  # type: ignore[return-value]


def test_a_handler_without_work_is_not_run() -> None:
    registry = RecoveryRegistry()
    idle, busy = Working(1, work=False), Working(2, work=True)
    registry.register(idle)
    registry.register(busy)

    assert registry.try_run_all() == (2,)
    assert (idle.calls, busy.calls) == (0, 1)
    assert [status.runs for status in registry.status()] == [0, 1]


@pytest.mark.parametrize("work", [ValueError("no"), None, 1])
def test_an_answer_about_work_that_is_none_is_a_strike(work: object) -> None:
    registry = RecoveryRegistry()
    handler = Working(1, work=work)
    registry.register(handler, strikes=1)

    assert registry.try_run_all() == ()
    assert handler.calls == 0
    assert registry.is_empty()


# ---------------------------------------------------------------- names


class Group:
    """Offers a bound method, which is a new object each time it is looked up."""

    def recover(self) -> Sequence[int]:
        return [1]


def recover() -> Sequence[int]:
    return [2]


def test_a_handler_without_a_name_gets_that_of_its_function_or_class() -> None:
    registry = RecoveryRegistry()
    for handler in (recover, recover, Group().recover, Counted(), functools.partial(recover)):
        registry.register(handler)

    names = [status.name for status in registry.status()]
    assert names == ["recover", "recover-2", "recover-3", "Counted", "partial"]


def test_a_name_in_use_is_refused() -> None:
    registry = RecoveryRegistry()
    registry.register(recover, name="group")

    with pytest.raises(InvalidArgument, match='name: "group" is in use'):
        registry.register(Counted(), name="group")
    assert len(registry) == 1


def test_unregister_finds_by_name_by_object_and_by_bound_method() -> None:
    registry = RecoveryRegistry()
    group, other, counted = Group(), Group(), Counted()
    registry.register(group.recover)
    registry.register(counted)
    registry.register(recover, name="named")

    assert not registry.unregister(other.recover)
    assert registry.unregister(group.recover)
    assert not registry.unregister(group.recover)
    assert registry.unregister(counted)
    assert not registry.unregister("recover")
    assert registry.unregister("named")
    assert registry.is_empty()


def test_a_handler_may_leave_while_it_runs() -> None:
    registry = RecoveryRegistry()

    def leaves() -> Sequence[int]:
        assert registry.unregister("leaves")
        return [3]

    registry.register(leaves)

    assert registry.try_run_all() == (3,)
    assert registry.is_empty()


# ---------------------------------------------------------------- arguments


def test_what_cannot_be_called_is_refused_with_the_reason() -> None:
    registry = RecoveryRegistry()

    def needs_one(group: object) -> Sequence[int]:
        return []

    class Method:
        def __call__(self, group: object) -> Sequence[int]:
            return []

    class Asks(Counted):
        async def has_work(self) -> bool:
            return True

    cases: list[tuple[object, str]] = [
        (7, "handler must be a RecoveryHandler: int cannot be called"),
        (Counted, "handler must be a RecoveryHandler: Counted is a class, give an instance of it"),
        (needs_one, "needs_one` cannot be called with no argument"),
        (Method(), ".Method` cannot be called with no argument"),
        (Asks(), "Asks.has_work` is async, and is never awaited"),
    ]
    for handler, message in cases:
        with pytest.raises(TypeError) as caught:
            registry.register(handler)  # type: ignore[arg-type]
        assert str(caught.value).endswith(message), str(caught.value)
    assert registry.is_empty()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strikes": 0}, InvalidArgument),
        ({"strikes": -1}, InvalidArgument),
        ({"strikes": 2**32}, InvalidArgument),
        ({"strikes": None}, TypeError),
        ({"strikes": "3"}, TypeError),
        ({"name": ""}, InvalidArgument),
        ({"name": 7}, TypeError),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    registry = RecoveryRegistry()
    with pytest.raises(error):
        registry.register(recover, **options)  # type: ignore[arg-type]
    assert registry.is_empty()


def test_a_repr_says_how_many() -> None:
    registry = RecoveryRegistry()
    registry.register(recover)
    assert repr(registry) == "RecoveryRegistry(<1 handlers>)"


# ---------------------------------------------------------------- coroutines


def test_a_coroutine_is_awaited_on_a_loop_of_meshos() -> None:
    registry = RecoveryRegistry()
    names = []

    async def recovers() -> Sequence[int]:
        await asyncio.sleep(0)
        names.append(threading.current_thread().name)
        return [8]

    registry.register(recovers, strikes=1)

    assert registry.try_run_all() == (8,)
    assert names == ["meshos-loop"]


def test_an_awaitable_of_a_plain_function_is_awaited() -> None:
    registry = RecoveryRegistry()

    async def recovers() -> Sequence[int]:
        return [8]

    def plain() -> Awaitable[Sequence[int]]:
        return recovers()

    registry.register(plain, strikes=1)

    assert registry.try_run_all() == (8,)


def test_a_coroutine_that_raises_is_a_strike() -> None:
    registry = RecoveryRegistry()

    async def raises() -> Sequence[int]:
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    registry.register(raises, strikes=1)

    assert registry.try_run_all() == ()
    assert registry.is_empty()


def test_a_coroutine_may_use_a_runtime() -> None:
    registry = RecoveryRegistry()
    with node() as runtime:

        async def recovers() -> Sequence[int]:
            (output,) = await runtime.deliver_async(origin, event(1, b"\x05"))
            return output.payload

        origin = spawned(runtime, Echo())
        registry.register(recovers, strikes=1)

        assert registry.try_run_all() == (5,)


def test_a_run_that_would_wait_for_its_own_loop_is_refused() -> None:
    registry = RecoveryRegistry()
    caught = []

    async def nested() -> Sequence[int]:
        with pytest.raises(ReentrantCallError) as refused:
            registry.try_run_all()
        caught.append(refused.value.call)
        return []

    registry.register(nested, strikes=1)
    registry.try_run_all()

    assert caught == ["RecoveryRegistry.try_run_all"]
    assert len(registry) == 1


def test_a_run_inside_a_daemon_is_refused() -> None:
    registry = RecoveryRegistry()

    class Runs(Echo):
        def process(self, event: CausalEvent) -> Sequence[bytes]:
            return [bytes(registry.try_run_all())]

    registry.register(Counted(1), strikes=1)
    with node() as runtime:
        origin = spawned(runtime, Runs())
        with pytest.raises(ProcessFailed) as failed:
            runtime.deliver(origin, event(1))
    assert isinstance(failed.value.__cause__, ReentrantCallError)
    assert registry.status()[0].runs == 0


# ---------------------------------------------------------------- interrupts


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_is_the_callers_and_no_strike(error: BaseException) -> None:
    registry = RecoveryRegistry()
    last = Counted(9)
    registry.register(Counted(error=error), strikes=1)
    registry.register(last, strikes=1)

    with pytest.raises(type(error)):
        registry.try_run_all()
    assert len(registry) == 2
    assert last.calls == 0
    assert registry.status()[0].runs == 0


def test_ctrl_c_ends_a_run_that_waits_for_a_coroutine() -> None:
    code = """
import asyncio, signal, threading
from meshos.recovery import RecoveryRegistry

registry = RecoveryRegistry()
begun = threading.Event()

async def waits():
    begun.set()
    await asyncio.sleep(3600)

def interrupt():
    begun.wait(10)
    signal.raise_signal(signal.SIGINT)

registry.register(waits, strikes=1)
threading.Thread(target=interrupt, daemon=True).start()
try:
    registry.try_run_all()
except KeyboardInterrupt:
    print(len(registry))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


# ---------------------------------------------------------------- memory


class Knows(Counted):
    """Knows the registry that it is in."""

    known: object = None


def test_a_cycle_through_a_handler_is_collected() -> None:
    registry, handler = RecoveryRegistry(), Knows()
    handler.known = registry
    registry.register(handler)
    seen = weakref.ref(handler)
    del handler, registry
    gc.collect()

    assert seen() is None


@pytest.mark.parametrize("leave", [lambda registry: registry.unregister("it"), lambda registry: registry.try_run_all()])
def test_a_handler_that_left_is_let_go_at_once(leave: Callable[[RecoveryRegistry], object]) -> None:
    registry = RecoveryRegistry()
    handler = Counted(1000)  # no slot: a strike
    seen = weakref.ref(handler)
    registry.register(handler, name="it", strikes=1)
    del handler
    leave(registry)
    gc.collect()

    assert registry.is_empty()
    assert seen() is None


def test_a_handler_that_dies_finds_no_lock_held() -> None:
    registry = RecoveryRegistry()
    counts = []

    class Dies:
        def __call__(self) -> Sequence[int]:
            return []

        def __del__(self) -> None:
            counts.append(len(registry))

    registry.register(Dies(), name="dies")
    registry.unregister("dies")

    assert counts == [0]
