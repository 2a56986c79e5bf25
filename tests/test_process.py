"""A whole interpreter: Ctrl-C, fork, exit, and what is left behind. Each in a process of its own."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from daemons import Counter, Echo, event, node, numbered
from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon
from meshos._core import _lane_stats
from meshos.daemon import DaemonHost, DaemonLifecycleEvent, DaemonLifecycleObserver, DaemonRegistry
from meshos.errors import ForkedProcessError

HERE = Path(__file__).parent
LIMIT = 5.0
"""Seconds within which an interpreter must have ended."""

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from meshos import *
from meshos.errors import *
from daemons import Counter, Echo, Gated, event, numbered, spawned

class Forever(MeshDaemon):
    name = "forever"

    def __init__(self):
        self.entered = threading.Event()

    async def process(self, event):
        if event.payload == b"block":
            self.entered.set()
            await asyncio.sleep(3600)
        return [event.payload]

runtime = DaemonRuntime(Mesh.local())
runtime.start()
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-X", "faulthandler", "-W", "error", "-c", PRELUDE + textwrap.dedent(body)]


def ended(body: str, limit: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program(body), cwd=HERE, capture_output=True, text=True, timeout=limit, check=False)


# ---------------------------------------------------------------- Ctrl-C

# A thread raises the signal as soon as the main thread waits, which it sees by its being detached for a while.
INTERRUPT = """
def interrupted(call, ready=None):
    waits = threading.Event()
    times = []

    def strike():
        if ready is not None:
            ready.wait(10)
        # Long enough for the main thread to be in its wait; the time that counts begins after it.
        waits.wait(0.1)
        times.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        result = call()
    except KeyboardInterrupt:
        took = time.monotonic() - times[0]
        striker.join()
        return took
    raise AssertionError(f"not interrupted: {result}")

def busy():
    daemon = Gated()
    origin = spawned(runtime, daemon)
    holder = threading.Thread(target=lambda: runtime.deliver(origin, event(1, b"block")), daemon=True)
    holder.start()
    assert daemon.entered.wait(10)
    return daemon, origin, holder
"""

BUSY_CALLS = {
    "deliver": "runtime.deliver(origin, event(2, b'late'))",
    "deliver_many": "runtime.deliver_many(origin, [event(2, b'late')])",
    "send": "runtime.send(origin, event(2, b'late'), timeout=None)",
    "send_many": "runtime.send_many(origin, [event(2, b'late'), event(3, b'later')], timeout=None)",
    "stop": "runtime.stop(origin)",
    "newest_snapshot": "runtime.newest_snapshot(origin)",
    "export_chain": "runtime.export_chain(origin, 'never-written')",
    "with_daemon": "runtime.with_daemon(origin, Gated, repr)",
    "registry": "runtime.daemon_registry().deliver(origin, event(2, b'late'))",
}


@pytest.mark.parametrize("call", BUSY_CALLS)
def test_ctrl_c_ends_the_wait_for_a_busy_daemon_which_stays_usable(call: str) -> None:
    done = ended(
        INTERRUPT
        + f"""
daemon, origin, holder = busy()
took = interrupted(lambda: {BUSY_CALLS[call]})
assert took < 0.2, took
daemon.leave.set()
holder.join(10)
assert runtime.send(origin, event(9, b"after")).processed >= 2
assert daemon.seen[0] == b"block" and daemon.seen[-1] == b"after", daemon.seen
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ctrl_c_ends_a_shutdown_and_a_second_one_is_harmless() -> None:
    done = ended(
        INTERRUPT
        + """
daemon, origin, holder = busy()
took = interrupted(lambda: runtime.shutdown(timeout=__import__("datetime").timedelta(seconds=30)))
assert took < 0.2, took
try:
    runtime.send(origin, b"")
except ShuttingDown:
    pass
else:
    raise AssertionError
daemon.leave.set()
holder.join(10)
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ctrl_c_cancels_the_coroutine_that_a_delivery_waits_for() -> None:
    done = ended(
        INTERRUPT
        + """
daemon = Forever()
origin = spawned(runtime, daemon)
took = interrupted(lambda: runtime.deliver(origin, event(1, b"block")), daemon.entered)
assert took < 0.2, took
assert runtime.deliver(origin, event(1, b"again"))[0].sequence == 1
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ctrl_c_leaves_a_coroutine_that_does_not_end_out_of_service() -> None:
    done = ended(
        INTERRUPT
        + """
class Stubborn(MeshDaemon):
    entered, leave = threading.Event(), False

    async def process(self, event):
        self.entered.set()
        while not self.leave:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

daemon = Stubborn()
origin = spawned(runtime, daemon)
took = interrupted(lambda: runtime.deliver(origin, event(1)), daemon.entered)
assert took < 0.3, took
try:
    runtime.deliver(origin, event(2))
except RestoreFailed as error:
    assert error.kind == "failed"
else:
    raise AssertionError
daemon.leave = True
runtime.stop(origin)
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ctrl_c_ends_a_send_to_a_coroutine_that_never_ends() -> None:
    done = ended(
        INTERRUPT
        + """
daemon = Forever()
origin = spawned(runtime, daemon)
took = interrupted(lambda: runtime.send(origin, b"block", timeout=None), daemon.entered)
assert took < 0.2, took
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ctrl_c_inside_process_passes_through_and_changes_nothing() -> None:
    done = ended(
        INTERRUPT
        + """
class Spins(MeshDaemon):
    entered = threading.Event()

    def process(self, event):
        self.entered.set()
        while event.payload == b"spin":
            pass
        return b"done"

daemon = Spins()
origin = spawned(runtime, daemon)
took = interrupted(lambda: runtime.deliver(origin, event(1, b"spin")), daemon.entered)
assert took < 0.2, took
assert runtime.deliver(origin, event(1))[0].sequence == 1
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


# ---------------------------------------------------------------- fork

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

FORK = """
identity = Identity.generate()
runtime.register_factory("counter", Counter)
handle = runtime.spawn("counter", identity)
origin = handle.origin_hash
registry, mesh, factories = runtime.daemon_registry(), runtime.mesh(), runtime.factory_registry()
from meshos.daemon import DaemonHost, DaemonRegistry
host = DaemonHost(Counter(), Identity.generate())
alone = DaemonRegistry()
config = DaemonHostConfig()
from meshos.probes import ProbeRegistry
from meshos.recovery import RecoveryRegistry
from meshos.scheduler import SchedulerRegistry
probes, recovery, scorers = ProbeRegistry(), RecoveryRegistry(), SchedulerRegistry()
snapshot = runtime.snapshot(origin)
runtime.send(origin, numbered(1))
asyncio.run(runtime.send_async(origin, numbered(2)))
runtime.deliver(spawned(runtime, Forever()), event(1))

def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the child never ended")
"""


@forks
def test_what_was_made_before_a_fork_is_refused_in_the_child() -> None:
    done = ended(
        FORK
        + """
calls = {
    "start": runtime.start,
    "register_factory": lambda: runtime.register_factory("x", Echo),
    "spawn": lambda: runtime.spawn("counter", Identity.generate()),
    "spawn_with_daemon": lambda: runtime.spawn_with_daemon(Identity.generate(), config, Echo(), Echo),
    "spawn_from_snapshot": lambda: runtime.spawn_from_snapshot("counter", identity, snapshot),
    "find": lambda: runtime.find(origin),
    "stop": lambda: runtime.stop(origin),
    "snapshot": lambda: runtime.snapshot(origin),
    "newest_snapshot": lambda: runtime.newest_snapshot(origin),
    "export_chain": lambda: runtime.export_chain(origin, "never-written"),
    "with_daemon": lambda: runtime.with_daemon(origin, Counter, repr),
    "control": lambda: runtime.control(origin, Resume()),
    "deliver": lambda: runtime.deliver(origin, numbered(3)),
    "deliver_many": lambda: runtime.deliver_many(origin, [numbered(3)]),
    "send": lambda: runtime.send(origin, b""),
    "send_many": lambda: runtime.send_many(origin, [b""]),
    "shutdown": runtime.shutdown,
    "handle.snapshot": handle.snapshot,
    "handle.stats": lambda: handle.stats,
    "registry.deliver": lambda: registry.deliver(origin, numbered(3)),
    "registry.count": registry.count,
    "registry.daemons": registry.daemons,
    "registry.poll": registry.poll,
    "registry.register": lambda: alone.register(host),
    "registry.unregister": lambda: registry.unregister(origin),
    "host.deliver": lambda: host.deliver(numbered(1)),
    "host.take_snapshot": host.take_snapshot,
    "host.bindings": host.bindings_snapshot,
    "factories.construct": lambda: factories.construct("counter"),
    "mesh.close": mesh.close,
    "another runtime": lambda: DaemonRuntime(mesh),
    "probes.probe_counts": probes.probe_counts,
    "probes.add_health_probe": lambda: probes.add_health_probe(None),
    "probes.clear_health_probes": probes.clear_health_probes,
    "recovery.register": lambda: recovery.register(int),
    "recovery.try_run_all": recovery.try_run_all,
    "recovery.status": recovery.status,
    "recovery.len": lambda: len(recovery),
    "scorers.current": scorers.current,
    "scorers.install": lambda: scorers.install(None),
    "send_async": lambda: asyncio.run(runtime.send_async(origin, b"")),
    "spawn_async": lambda: asyncio.run(runtime.spawn_async("counter", Identity.generate())),
}

def work():
    for name, call in calls.items():
        try:
            call()
        except ForkedProcessError:
            continue
        except BaseException as error:
            print(name, repr(error), flush=True)
        else:
            print(name, "worked", flush=True)

assert child(work) == 0
assert runtime.send(origin, numbered(3)).processed == 3
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@forks
def test_a_child_makes_a_runtime_of_its_own_and_the_parent_goes_on() -> None:
    done = ended(
        FORK
        + """
def work():
    key = Identity.generate()
    with DaemonRuntime(Mesh.local()) as own:
        own.register_factory("counter", Counter)
        own.start()
        mine = own.spawn("counter", key).origin_hash
        assert own.send(mine, numbered(1)).processed == 1
        assert asyncio.run(own.send_async(mine, numbered(2))).processed == 2
        late = own.spawn_with_daemon(Identity.generate(), config, Forever(), Forever).origin_hash
        assert len(own.deliver(late, event(1, b"x"))) == 1
        assert own.send(late, b"y").processed == 2

    def grandchild():
        with DaemonRuntime(Mesh.local()) as third:
            third.start()
            assert third.send(spawned(third, Forever()), b"").processed == 1

    assert child(grandchild) == 0
    print("child", flush=True)

assert child(work) == 0
assert runtime.send(origin, numbered(3)).processed == 3
runtime.shutdown()
print("parent")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "child\nparent\n", "")


@forks
def test_values_work_in_the_child() -> None:
    done = ended(
        FORK
        + """
def work():
    assert identity.verify(b"x", identity.sign(b"x")) is None
    assert StateSnapshot.from_bytes(snapshot.to_bytes()) == snapshot
    assert (handle.origin_hash, mesh.node_id) == (origin, mesh.node_id)
    repr(runtime), repr(registry), repr(host), repr(handle), repr(mesh)

assert child(work) == 0
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@forks
def test_a_fork_while_daemons_work_harms_neither_side() -> None:
    done = ended(
        FORK
        + """
stop = threading.Event()

def load(number):
    turn = 0
    while not stop.is_set():
        turn += 1
        runtime.send(origin, numbered(turn, origin=number))

loaders = [threading.Thread(target=load, args=(number,)) for number in range(100, 103)]
for loader in loaders:
    loader.start()

def work():
    with DaemonRuntime(Mesh.local()) as own:
        own.start()
        assert own.send(spawned(own, Echo()), b"").processed == 1

for _ in range(5):
    assert child(work) == 0
stop.set()
for loader in loaders:
    loader.join(10)
runtime.shutdown()
print("fine")
"""
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


# ---------------------------------------------------------------- exit

EXITS = {
    "idle": "runtime.shutdown()",
    "without shutdown": "runtime.send(spawned(runtime, Echo()), b'')",
    "with an internal loop": "runtime.send(spawned(runtime, Forever()), b'')",
    "with a coroutine that never ends": """
daemon = Forever()
origin = spawned(runtime, daemon)
try:
    runtime.send(origin, b"block", timeout=__import__("datetime").timedelta(milliseconds=50))
except SendTimeout:
    assert daemon.entered.wait(10)
""",
    "with a daemon blocked on a lane": """
daemon = Gated()
origin = spawned(runtime, daemon)
try:
    runtime.send(origin, b"block", timeout=__import__("datetime").timedelta(milliseconds=50))
except SendTimeout:
    assert daemon.entered.wait(10)
""",
    "with a daemon that spins on a lane": """
class Spins(MeshDaemon):
    entered = threading.Event()

    def process(self, event):
        self.entered.set()
        while True:
            pass

daemon = Spins()
origin = spawned(runtime, daemon)
try:
    runtime.send(origin, b"", timeout=__import__("datetime").timedelta(milliseconds=50))
except SendTimeout:
    assert daemon.entered.wait(10)
""",
    "with queued sends": """
daemon = Gated()
origin = spawned(runtime, daemon)
for payload in (b"block", b"one", b"two"):
    try:
        runtime.send(origin, payload, timeout=__import__("datetime").timedelta(milliseconds=20))
    except SendTimeout:
        pass
""",
    "with a thread that waits": """
daemon = Gated()
origin = spawned(runtime, daemon)
def quiet():
    try:
        runtime.send(origin, b"block", timeout=None)
    except MeshOsError:
        pass
threading.Thread(target=quiet, daemon=True).start()
assert daemon.entered.wait(10)
""",
    "with health that is asked": """
class Reports(Echo):
    def health(self):
        from meshos.daemon import Healthy
        return Healthy()

other = DaemonRuntime(Mesh.local(), poll_interval=__import__("datetime").timedelta(milliseconds=1))
other.start()
spawned(other, Reports())
""",
    "from a daemon thread": """
def late():
    with DaemonRuntime(Mesh.local()) as other:
        other.start()
        origin = spawned(other, Echo())
        try:
            while True:
                other.send(origin, b"")
        except MeshOsError:
            pass
threading.Thread(target=late, daemon=True).start()
threading.Event().wait(0.1)
""",
    "after asyncio": """
async def main():
    async with DaemonRuntime(Mesh.local()) as other:
        await other.start_async()
        await other.send_async(spawned(other, Forever()), b"")
asyncio.run(main())
""",
    "by sys.exit in a block": """
with runtime:
    spawned(runtime, Echo())
    sys.exit(0)
""",
}


@pytest.mark.parametrize("how", EXITS)
def test_an_interpreter_exits_in_time_and_in_silence(how: str) -> None:
    begun = time.monotonic()
    done = ended(EXITS[how])

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begun < LIMIT


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill")
def test_a_killed_process_leaves_nothing_to_clean_up(tmp_path: Path) -> None:
    body = "print('ready', flush=True); origin = spawned(runtime, Echo())\nwhile True: runtime.send(origin, b'')\n"
    with subprocess.Popen(
        program(body), cwd=HERE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.kill()

    assert run.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- garbage


class Cyclic(Counter):
    """Knows its runtime, and whatever else a test gives it."""

    name = "counter"
    known: object = None


class Knows(DaemonLifecycleObserver):
    known: object = None

    def observe(self, event: DaemonLifecycleEvent) -> None: ...


def in_host() -> object:
    daemon = Cyclic()
    daemon.known = DaemonHost(daemon, Identity.generate())
    return daemon


def in_runtime() -> object:
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    daemon = Cyclic()
    daemon.known = runtime
    runtime.spawn_with_daemon(Identity.generate(), DaemonHostConfig(), daemon, Cyclic)
    return daemon


def in_registry() -> object:
    registry, daemon = DaemonRegistry(), Cyclic()
    host = DaemonHost(daemon, Identity.generate())
    registry.register(host)
    daemon.known = (registry, host)
    return daemon


def in_factory() -> object:
    runtime = DaemonRuntime(Mesh.local())
    runtime.register_factory("kept", lambda: Cyclic() if runtime.is_ready() else Echo())
    return runtime


def in_factory_of_an_instance() -> object:
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    origin = Identity.generate()
    runtime.spawn_with_daemon(origin, DaemonHostConfig(), Echo(), lambda: Echo() if runtime.is_ready() else Cyclic())
    return runtime


def in_observer() -> object:
    observer = Knows()
    registry = DaemonRegistry()
    observer.known = registry
    registry.add_observer(observer)
    return observer


def in_handle() -> object:
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    daemon = Cyclic()
    daemon.known = runtime.spawn_with_daemon(Identity.generate(), DaemonHostConfig(), daemon, Cyclic)
    return daemon


CYCLES = [in_host, in_runtime, in_registry, in_factory, in_factory_of_an_instance, in_observer, in_handle]


@pytest.mark.parametrize("make", CYCLES)
def test_a_cycle_through_native_objects_is_collected(make: Callable[[], object]) -> None:
    kept = make()
    seen = weakref.ref(kept)

    del kept
    gc.collect()

    assert seen() is None


def test_a_stopped_daemon_is_let_go_at_once() -> None:
    with node(counter=Counter) as runtime:
        seen = []
        for call in (runtime.stop, runtime.daemon_registry().unregister):
            daemon = Counter()
            seen.append(weakref.ref(daemon))
            origin = runtime.spawn_with_daemon(Identity.generate(), DaemonHostConfig(), daemon, Counter).origin_hash
            runtime.send(origin, numbered(1))
            del daemon
            call(origin)

        assert [each() for each in seen] == [None, None]


def test_an_event_and_its_outputs_do_not_outlive_their_daemon() -> None:
    payload = os.urandom(100)
    before = sys.getrefcount(payload)
    host = DaemonHost(Echo(), Identity.generate())
    outputs = host.deliver(event(1, payload))

    del outputs, host

    assert sys.getrefcount(payload) == before


def test_many_runtimes_leave_no_threads_behind() -> None:
    class Reports(Echo):
        def saturation(self) -> float:
            return 0.0

    class Waits(MeshDaemon):
        async def process(self, event: CausalEvent) -> None: ...

    def use() -> None:
        with node() as runtime:
            for daemon in (Reports(), Waits(), Counter()):
                identity = Identity.generate()
                origin = runtime.spawn_with_daemon(identity, DaemonHostConfig(), daemon, type(daemon)).origin_hash
                runtime.send(origin, numbered(1))

    use()
    before = (threading.active_count(), _lane_stats()[0])
    for _ in range(50):
        use()
    gc.collect()

    assert threading.active_count() <= before[0] + 2
    assert _lane_stats()[0] <= before[1] + 2


def test_the_error_of_a_fork_names_the_object() -> None:
    assert str(ForkedProcessError("DaemonHost")).startswith("DaemonHost was made before fork()")
