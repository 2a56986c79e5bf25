"""`meshos.testing.simulate`: the user's own daemon where everything goes wrong, one seed, one run."""

import asyncio
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import pytest

from meshos.chain import CausalEvent
from meshos.daemon import DaemonHostConfig, MeshDaemon
from meshos.errors import (
    ConfigError,
    InvalidArgument,
    InvalidDaemon,
    ProcessFailed,
    RestoreFailed,
    SnapshotFailed,
)
from meshos.testing import Faults, InvariantViolation, SimulationRun, simulate
from records import check_record

SLOW = (timedelta(0), timedelta(milliseconds=500))
WILD = Faults(loss=0.2, duplicate=0.1, delay=SLOW, crash=0.01, partition=0.01)
ALL = Faults(
    loss=0.2,
    duplicate=0.1,
    delay=SLOW,
    crash=0.01,
    partition=0.01,
    torn_write=0.05,
    slow_callback=0.01,
    clock_jump=0.01,
)


class Good(MeshDaemon):
    name = "good"

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.total += event.payload[0]
        return [struct.pack("<Q", self.total)]

    def snapshot(self) -> bytes:
        return struct.pack("<Q", self.total)

    def restore(self, state: bytes) -> None:
        (self.total,) = struct.unpack("<Q", state)


# ---------------------------------------------------------------- a daemon that is right


def test_without_faults_everything_is_completed() -> None:
    run = simulate(Good, seed=1)

    assert (run.acknowledged, run.moves_completed, run.moves_aborted) == (100, 3, 0)
    assert (run.crashes, run.partitions, run.messages_lost, run.rolled_back) == (0, 0, 0, 0)
    assert run.seed == 1
    assert len(run.digest) == 32
    assert run.simulated > timedelta(0)


@pytest.mark.parametrize("faults", [WILD, ALL], ids=["wild", "all"])
def test_every_event_takes_effect_once_whatever_goes_wrong(faults: Faults) -> None:
    runs = [simulate(Good, seed=seed, faults=faults) for seed in range(20)]

    assert all(run.acknowledged == 100 for run in runs)
    assert all(run.moves_completed + run.moves_aborted == 3 for run in runs)
    assert sum(run.moves_completed for run in runs) > 10
    assert sum(run.crashes for run in runs) > 10


@pytest.mark.parametrize("nodes", range(2, 9))
def test_any_number_of_nodes(nodes: int) -> None:
    run = simulate(Good, seed=3, nodes=nodes, events=40, moves=5, faults=WILD)

    assert (run.acknowledged, run.moves_completed + run.moves_aborted) == (40, 5)


@pytest.mark.parametrize(
    ("faults", "counter"),
    [
        (Faults(loss=0.1), "messages_lost"),
        (Faults(duplicate=0.1), "messages_repeated"),
        (Faults(delay=SLOW), "messages_overtaken"),
        (Faults(crash=0.05), "crashes"),
        (Faults(partition=0.1), "partitions"),
        (Faults(torn_write=0.3), "writes_failed"),
        (Faults(slow_callback=0.1), "slow_callbacks"),
        (Faults(clock_jump=0.3), "clock_jumps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_fault_can_be_seen(faults: Faults, counter: str) -> None:
    assert getattr(simulate(Good, seed=1, faults=faults), counter) > 0
    assert getattr(simulate(Good, seed=1), counter) == 0


def test_nothing_to_do_is_done_at_once() -> None:
    run = simulate(Good, seed=1, events=0, moves=0)

    assert (run.acknowledged, run.moves_completed, run.moves_aborted) == (0, 0, 0)


def test_the_payload_of_an_event_is_what_the_caller_makes() -> None:
    seen: list[bytes] = []

    class Keeps(Good):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            seen.append(event.payload)
            return super().process(event)

    simulate(Keeps, seed=1, events=3, payload=lambda number: bytes([number]) * number)

    assert {payload[0]: payload for payload in seen} == {1: b"\1", 2: b"\2\2", 3: b"\3\3\3"}


def test_a_stateless_daemon_moves_too() -> None:
    class Echo(MeshDaemon):
        name = "echo"

        def process(self, event: CausalEvent) -> Iterable[bytes]:
            return [event.payload]

    assert simulate(Echo, seed=1, faults=WILD).acknowledged == 100


def test_coroutines_and_generators_run_to_their_end() -> None:
    class Waits(Good):
        async def process(self, event: CausalEvent) -> Iterable[bytes]:  # type: ignore[override]
            await asyncio.sleep(0)
            return super().process(event)

    class Streams(Good):
        async def process(self, event: CausalEvent) -> AsyncIterator[bytes]:  # type: ignore[override]
            await asyncio.sleep(0)
            for output in super().process(event):
                yield output

    assert simulate(Waits, seed=1).acknowledged == 100
    assert simulate(Streams, seed=1).acknowledged == 100


# ---------------------------------------------------------------- what may be lost


@pytest.mark.parametrize("durability", ["none", "snapshot"])
def test_without_a_journal_a_crash_may_roll_back(durability: str) -> None:
    config = DaemonHostConfig(durability=durability, auto_snapshot_interval=10)  # type: ignore[arg-type]
    runs = [simulate(Good, seed=seed, faults=WILD, config=config) for seed in range(20)]

    assert sum(run.rolled_back for run in runs) > 0


def test_a_journal_with_snapshots_loses_nothing() -> None:
    config = DaemonHostConfig(durability="journal", auto_snapshot_interval=7)
    runs = [simulate(Good, seed=seed, faults=ALL, config=config) for seed in range(10)]

    assert [run.rolled_back for run in runs] == [0] * 10


# ---------------------------------------------------------------- bugs


class Forgetful(Good):
    """A restore forgets."""

    def restore(self, state: bytes) -> None:
        self.total = 0


class Half(Good):
    """A restore keeps half."""

    def restore(self, state: bytes) -> None:
        super().restore(state)
        self.total //= 2


class Shares(Good):
    """Every instance works on the same list."""

    totals: list[int] = [0]  # noqa: RUF012  the bug

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.totals[0] += 1
        return [struct.pack("<Q", self.totals[0])]

    def snapshot(self) -> bytes:
        return struct.pack("<Q", self.totals[0])


class Instances(Good):
    """What is emitted depends on a counter of the class."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        return [b"%d" % self.made]


class Address(Good):
    """What is emitted is another one in each instance."""

    def __init__(self) -> None:
        super().__init__()
        self.object = object()

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        super().process(event)
        return [b"%d" % id(self.object)]


class Clock(Good):
    """What is emitted is another one each time."""

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        super().process(event)
        return [b"%d" % time.perf_counter_ns()]


class Reordered(Good):
    """A snapshot is not all of the state: the order is lost."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.seen.append(event.payload[0])
        return [bytes(self.seen[-2:])]

    def snapshot(self) -> bytes:
        return bytes(sorted(self.seen))

    def restore(self, state: bytes) -> None:
        self.seen = list(state)


@pytest.mark.parametrize("bug", [Forgetful, Half, Shares, Instances, Address, Clock, Reordered])
def test_a_bug_is_found_and_found_again(bug: type[Good]) -> None:
    found = None
    for seed in range(30):
        try:
            simulate(bug, seed=seed, faults=WILD)
        except InvariantViolation as violation:
            found = violation
            break
    assert found is not None
    assert found.invariant in ("SameState", "SameOutputs")
    assert found.seed == seed
    assert found.step > 0
    assert found.timeline
    assert len(found.timeline) < 40
    assert found.reproduce.startswith(
        f"simulate({bug.__name__}, seed={seed}, nodes=3, events=100, moves=3, faults=Faults("
    )
    assert isinstance(found, AssertionError)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_what_reproduces_a_violation_is_a_call() -> None:
    import datetime

    def any_seed() -> None:
        for seed in range(20):
            simulate(Forgetful, seed=seed, faults=WILD)

    with pytest.raises(InvariantViolation) as first:
        any_seed()
    names = {"simulate": simulate, "Forgetful": Forgetful, "Faults": Faults, "datetime": datetime}

    with pytest.raises(InvariantViolation) as second:
        eval(first.value.reproduce, names)

    assert second.value.args == first.value.args


# ---------------------------------------------------------------- user code that raises


class Boom(Exception):
    pass


def raising(method: str) -> type[Good]:
    def boom(self: object, *_: object) -> None:
        raise Boom(method)

    return type("Raises", (Good,), {method: boom})


@pytest.mark.parametrize(
    ("method", "error"), [("process", ProcessFailed), ("snapshot", SnapshotFailed), ("restore", RestoreFailed)]
)
def test_what_user_code_raises_is_the_cause(method: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        simulate(raising(method), seed=1)

    assert isinstance(caught.value.__cause__, Boom)


def test_what_a_factory_raises_is_the_cause() -> None:
    def factory() -> MeshDaemon:
        raise Boom

    with pytest.raises(InvalidDaemon) as caught:
        simulate(factory, seed=1)

    assert isinstance(caught.value.__cause__, Boom)


def test_what_payload_raises_passes_through() -> None:
    def payload(number: int) -> bytes:
        raise Boom

    with pytest.raises(Boom):
        simulate(Good, seed=1, payload=payload)


@pytest.mark.parametrize("gives", [5, "text", [1], object()])
def test_wrong_results_are_refused(gives: object) -> None:
    with pytest.raises(ProcessFailed):
        simulate(type("Wrong", (Good,), {"process": lambda *_: gives}), seed=1)
    with pytest.raises(SnapshotFailed):
        simulate(type("Wrong", (Good,), {"snapshot": lambda _: gives}), seed=1)
    with pytest.raises(InvalidDaemon):
        simulate(lambda: gives, seed=1)  # type: ignore[arg-type, return-value]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to the process itself")
def test_an_interrupt_ends_a_run() -> None:
    class Interrupts(Good):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            os.kill(os.getpid(), signal.SIGINT)
            return super().process(event)

    with pytest.raises(KeyboardInterrupt):
        simulate(Interrupts, seed=1)


def test_user_code_runs_on_the_calling_thread() -> None:
    threads: set[int] = set()

    class Notes(Good):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            threads.add(threading.get_ident())
            return super().process(event)

    before = threading.active_count()
    simulate(Notes, seed=1, faults=ALL)

    assert threads == {threading.get_ident()}
    assert threading.active_count() == before


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"nodes": 1},
        {"nodes": 9},
        {"events": -1},
        {"events": 10_001},
        {"moves": 1_001},
        {"config": DaemonHostConfig(delivery="at_least_once")},
        {"config": DaemonHostConfig(on_divergence="continue")},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        simulate(Good, **{"seed": 1, **arguments})  # type: ignore[arg-type]

    assert caught.value.argument == next(iter(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"daemon": 5},
        {"seed": "1"},
        {"seed": True},
        {"nodes": 3.0},
        {"faults": None},
        {"config": {}},
        {"payload": b""},
    ],
    ids=str,
)
def test_arguments_of_the_wrong_type_are_refused(arguments: dict[str, object]) -> None:
    given = {"daemon": Good, "seed": 1, **arguments}
    with pytest.raises(TypeError):
        simulate(given.pop("daemon"), **given)  # type: ignore[arg-type]


def test_the_wrong_payload_is_refused() -> None:
    with pytest.raises(TypeError, match="payload"):
        simulate(Good, seed=1, payload=lambda number: number)  # type: ignore[arg-type, return-value]


FAULTS: dict[str, object] = {
    "loss": 0.1,
    "duplicate": 0.2,
    "delay": SLOW,
    "crash": 0.3,
    "partition": 0.4,
    "torn_write": 0.5,
    "slow_callback": 1.0,
    "clock_jump": 0.7,
}


def test_faults_are_a_record() -> None:
    check_record(Faults(**FAULTS), FAULTS, by_keyword=True)  # type: ignore[arg-type]
    assert Faults() == Faults(delay=(timedelta(0), timedelta(0)), loss=0)


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "delay"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_is_from_0_to_1(name: str, share: float) -> None:
    with pytest.raises(ConfigError) as caught:
        Faults(**{name: share})  # type: ignore[arg-type]

    assert caught.value.field == name


@pytest.mark.parametrize(
    "delay", [SLOW[::-1], (timedelta(0), timedelta(hours=2)), (timedelta(-1), timedelta(0))], ids=str
)
def test_a_delay_is_a_range(delay: tuple[timedelta, timedelta]) -> None:
    with pytest.raises(ConfigError):
        Faults(delay=delay)


@pytest.mark.parametrize("delay", [timedelta(0), (1, 2), (timedelta(0),), [timedelta(0), timedelta(0)], None], ids=str)
def test_a_delay_is_a_tuple_of_two(delay: object) -> None:
    with pytest.raises(TypeError):
        Faults(delay=delay)  # type: ignore[arg-type]


def test_a_run_is_a_record() -> None:
    run = simulate(Good, seed=1, faults=WILD)
    names = [name for name in vars(SimulationRun) if not name.startswith("_")]
    check_record(run, {name: getattr(run, name) for name in names}, by_keyword=True)


# ---------------------------------------------------------------- one seed, one run

SCRIPT = """
import sys
from datetime import timedelta
from meshos.testing import Faults, simulate
from meshos import MeshDaemon

class Names(MeshDaemon):
    name = "names"
    def __init__(self): self.seen = []
    def process(self, event):
        self.seen.append(event.payload)
        return [str(event.received_at).encode(), self.seen[-1]]
    def snapshot(self): return b"".join(self.seen)
    def restore(self, state): self.seen = [state[at:at + 8] for at in range(0, len(state), 8)]

faults = Faults(loss=0.2, duplicate=0.1, delay=(timedelta(0), timedelta(milliseconds=500)), crash=0.01, partition=0.01,
                torn_write=0.05, slow_callback=0.01, clock_jump=0.01)
for seed in range(5):
    print(simulate(Names, seed=seed, faults=faults))
"""


def test_equal_arguments_give_equal_runs_in_every_process() -> None:
    def printed(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-W", "error", "-c", SCRIPT]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=50).stdout

    first = printed("1")

    assert first == printed("2")
    assert len(set(first.splitlines())) == 5


def test_every_argument_counts() -> None:
    def digest(**arguments: object) -> bytes:
        return simulate(Good, **{"seed": 1, **arguments}).digest  # type: ignore[arg-type]

    changes: list[dict[str, object]] = [
        {},
        {"seed": 2},
        {"nodes": 4},
        {"events": 101},
        {"moves": 4},
        {"faults": WILD},
        {"payload": lambda number: b"%d" % number},
        {"config": DaemonHostConfig()},
    ]
    assert len({digest(**change) for change in changes}) == len(changes)
    assert digest() == digest()


def test_importing_meshos_does_not_load_it() -> None:
    command = "import sys, meshos; assert 'meshos.testing' not in sys.modules; meshos.testing; import asyncio"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=50)
