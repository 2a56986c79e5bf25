"""Wrong values for everything public: each is refused with a typed error, and nothing panics, hangs or crashes.

The walk runs in an interpreter of its own, so that a crash or a hang is a failed test and not the end of all of them.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

WALK = '''
import asyncio, enum, importlib, inspect, pkgutil, sys, tempfile, threading, os
from datetime import datetime, timedelta, timezone

import meshos
from meshos import (
    CausalEvent, CausalLink, DaemonHostConfig, DaemonRuntime, EntityId, Identity, Mesh, MeshDaemon, Output, errors
)
from meshos.chain import CausalChainBuilder, Certificate, Checkpoint, ForkRecord, ObservedHorizon, fork_entity
from meshos.compute import FactoryEntry
from meshos.daemon import DaemonHost, DaemonLifecycleObserver, DaemonRegistry, Healthy
from daemons import Counter, Echo, event, numbered

os.chdir(tempfile.mkdtemp())
UTC = timezone.utc


class Weird:
    """Lies to whoever asks it for a conversion."""

    def __index__(self): raise ValueError("no index")
    def __float__(self): raise ValueError("no float")
    def __iter__(self): raise ValueError("no items")
    def __len__(self): return 2**62
    def __fspath__(self): return 7
    def __hash__(self): raise TypeError("no hash")


class Endless(int):
    def __index__(self): return self


WRONG = [
    None, -1, 0, 1, 2**63, 2**64, 2**64 - 1, -(2**70), 10**400, 1.5, float("nan"), float("inf"), -0.0,
    "", "x", "\\ud800", "a\\0b", "x" * 300, b"", b"x", b"x" * 31, b"x" * 32, b"x" * 64, bytes(70_000), bytearray(b"x"),
    memoryview(b"xy")[::2], object(), [], {}, (), set(), True, int, Weird(), Endless(7), lambda: 1, [None], [b"x", 7],
    {"a": "b"}, {1: -1}, {-1: 1}, {7: 2**64}, timedelta(-1), timedelta.max, timedelta(0), datetime(1, 1, 1),
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC), ValueError("x"), ValueError, iter([1]), range(3), 1j, NotImplemented, ...,
]
# Which errors may come out, beside those of the package.
TYPED = (TypeError, errors.MeshOsError, OSError, UnicodeError)
FORBIDDEN = (errors.PoisonedError,)

# What belongs to the user and is not called with wrong values: it is only a default for user code to override.
USERS = {"MeshDaemon", "DaemonLifecycleObserver"}
failures = []
count = 0
lock = threading.Lock()


def public_modules():
    for info in pkgutil.iter_modules(meshos.__path__):
        if not info.name.startswith("_") and info.name not in ("demo", "cli"):
            yield importlib.import_module(f"meshos.{info.name}")


def attempt(name, call, /, *arguments, **keywords):
    """Make one call, and note what must not come of it."""
    global count
    with lock:
        count += 1
    try:
        result = call(*arguments, **keywords)
        if inspect.iscoroutine(result):
            result.close()
        elif asyncio.isfuture(result):
            result.cancel()
        repr(result)
    except TYPED as error:
        if isinstance(error, FORBIDDEN):
            note(name, arguments, keywords, error)
        str(error), repr(error)
    except (ValueError, LookupError) as error:
        # What the wrong value itself raised may pass through.
        if not any(isinstance(one, Weird) for one in (*arguments, *keywords.values())) or "no " not in str(error):
            note(name, arguments, keywords, error)
    except BaseException as error:
        note(name, arguments, keywords, error)


def note(name, arguments, keywords, error):
    shown = ", ".join([*(short(one) for one in arguments), *(f"{key}={short(one)}" for key, one in keywords.items())])
    with lock:
        failures.append(f"{name}({shown}): {type(error).__module__}.{type(error).__name__}: {short(error)}")


def short(value):
    try:
        return ascii(value)[:60]
    except BaseException as error:
        return f"<{type(value).__name__}>"


# ---------------------------------------------------------------- good values, so that a wrong one is not alone

identity = Identity.generate()
host = DaemonHost(Counter(), identity)
snapshot = host.take_snapshot()
link = CausalLink(1, 2, 3, 4)
owner = identity.entity_id
certificate = Certificate(owner, 1, owner, 0, bytes(32), "spawn", owner, bytes(64))
now = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {
    "origin_hash": 7, "event": event(1), "events": [event(1)], "kind": "counter", "identity": identity,
    "keypair": identity, "config": DaemonHostConfig(), "daemon": Echo(), "kind_factory": Echo, "factory": Echo,
    "snapshot": snapshot, "host": host, "observer": 7, "function": repr, "file": "never-written", "payload": b"x",
    "sequence": 1, "link": link, "entity_id": identity.entity_id, "publisher": 1, "channel": "a/b", "token": None,
    "timeout": timedelta(milliseconds=1), "mesh": None, "message": b"x", "signature": bytes(64), "data": b"x",
    "raw": bytes(32), "at": now, "deadline": now, "grace": timedelta(1), "level": 0.5, "saturation": 0.5, "reason": "x",
    "number": 1, "name": "a", "digest": bytes(32), "head_digest": bytes(32), "head": link, "epoch": 1, "node": owner,
    "signer": owner, "previous": bytes(32), "health": Healthy(), "key": owner, "id": 7, "control": meshos.Resume(),
    "has_key": True, "certificates": [certificate], "checkpoints": [], "chain": CausalChainBuilder(owner),
    "seen": {1: 2},
}


def parameters(call):
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):
        return None
    return [one for one in signature.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def walk(name, call):
    """Call with one wrong value in each place, with only wrong ones, with too many, and with an unknown keyword."""
    known = parameters(call)
    for size in (0, 1, 2, 3, 12):
        for value in (None, 7, b"x"):
            attempt(name, call, *[value] * size)
    try:
        call(**{"no_such_option": 1})
    except TypeError:
        pass
    except BaseException as error:
        if not isinstance(error, errors.ShuttingDown):
            note(name, (), {"no_such_option": 1}, error)
    else:
        note(name, (), {"no_such_option": 1}, AssertionError("an unknown keyword was taken"))
    if known is None:
        for value in WRONG:
            attempt(name, call, value)
        return
    for place in known:
        for value in WRONG:
            positional, keywords = [], {}
            for one in known:
                given = value if one is place else GOOD.get(one.name, one.default)
                if given is inspect.Parameter.empty:
                    given = 1
                if one is not place and one.default is not inspect.Parameter.empty:
                    continue
                if one.kind is not one.POSITIONAL_ONLY and (
                    one.kind is one.KEYWORD_ONLY or one.default is not inspect.Parameter.empty
                ):
                    keywords[one.name] = given
                else:
                    positional.append(given)
            attempt(name, call, *positional, **keywords)


def surface(cls):
    """The public methods and operators of a class, without those of `bytes` and `str` that it inherits."""
    operators = ("__eq__", "__or__", "__ror__", "__lt__", "__contains__", "__getitem__", "__call__", "__setstate__")
    for name in dir(cls):
        inherited = any(name in base.__dict__ for base in (bytes, str, tuple) if issubclass(cls, base))
        own = any(name in base.__dict__ for base in cls.__mro__ if base.__module__.startswith("meshos"))
        if (own or not inherited) and (not name.startswith("_") or name in operators):
            yield name


def everything(instances):
    for module in public_modules():
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if not callable(value) or name in USERS or type(value).__module__ == "typing":
                continue
            if isinstance(value, type):
                # What is no word of an enum is told by the standard library.
                if issubclass(value, (BaseException, enum.Enum)) or not value.__module__.startswith("meshos"):
                    continue
                if not inspect.isabstract(value) and name not in ("DaemonRuntime",):
                    walk(f"{module.__name__}.{name}", value)
                for method in surface(value):
                    raw = inspect.getattr_static(value, method, None)
                    made_by_class = type(raw).__name__ in ("builtin_function_or_method", "classmethod_descriptor")
                    if made_by_class or isinstance(raw, (staticmethod, classmethod)):
                        walk(f"{name}.{method}", getattr(value, method))
            elif getattr(value, "__module__", "").startswith("meshos") and name != "configure_lanes":
                walk(f"{module.__name__}.{name}", value)
    for instance in instances:
        cls = type(instance)
        for method in surface(cls):
            raw = inspect.getattr_static(cls, method, None)
            if isinstance(raw, (staticmethod, classmethod)):
                continue
            try:
                value = getattr(instance, method)
            except errors.MeshOsError:
                continue
            if callable(value) and method not in ENDS | WAITS:
                walk(f"{cls.__name__}.{method}", value)
            elif not callable(value):
                for wrong in WRONG[:3]:
                    try:
                        setattr(instance, method, wrong)
                    except (AttributeError, TypeError):
                        pass
                    else:
                        note(f"{cls.__name__}.{method}", (wrong,), {}, AssertionError("it could be set"))


# These end the object: they are called last, and then everything again.
ENDS = {"shutdown", "close", "close_async", "erase", "shutdown_async", "start_async"}
# These wait without an end for what never comes, when they are told to.
WAITS = {"wait_for_peer", "wait_for_peer_async"}


def made():
    """One of everything that has to be made by something else."""
    runtime = DaemonRuntime(Mesh.local())
    runtime.register_factory("counter", Counter)
    runtime.start()
    # What is posted and fails is not tried again: nothing that is sent after it waits.
    handle = runtime.spawn("counter", Identity.generate(), DaemonHostConfig(attempts_max=1))
    GOOD["origin_hash"] = handle.origin_hash
    own, registry = DaemonHost(Counter(), Identity.generate()), DaemonRegistry()
    placed = DaemonHost(Echo(), Identity.generate())
    registry.register(placed)
    child, record, chain = fork_entity(identity, 0, bytes(32))
    report = runtime.export_chain(handle.origin_hash, f"chain-{handle.origin_hash}")
    receipt = runtime.send(handle.origin_hash, numbered(1))
    return runtime, [
        runtime, handle, own, registry, runtime.daemon_registry(), runtime.factory_registry(), runtime.mesh(),
        own.take_snapshot(), record, chain, report, receipt, child, child.entity_id, event(1), link, certificate,
        own.bindings_snapshot(), own.requirements(), own.stats, own.config, ObservedHorizon(), Output(b"x"),
        meshos.Resume(), meshos.ChannelName("a/b"), meshos.capability.CapabilitySet(["hardware.gpu"]),
    ]
'''


def walked(body: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        WALK + body,
    ]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=55, check=False)


def clean(done: subprocess.CompletedProcess[str], least: int) -> None:
    assert done.stderr == ""
    *failures, last = done.stdout.splitlines()
    assert failures == []
    assert int(last.removeprefix("calls ")) >= least
    assert done.returncode == 0


ENDING = """
unique = {}
for failure in failures:
    unique.setdefault(failure.split("(")[0] + failure.rsplit("): ", 1)[1], failure)
for failure in list(unique.values())[:40]:
    print(failure)
print("calls", count)
"""


def test_every_wrong_value_is_refused_with_a_typed_error() -> None:
    done = walked("runtime, instances = made()\neverything(instances)\nruntime.shutdown()" + ENDING)

    clean(done, 10_000)


def test_every_wrong_value_is_refused_on_a_running_loop() -> None:
    done = walked(
        """
async def main():
    runtime, instances = made()
    handle = instances[1]
    for name in dir(runtime):
        if name.endswith("_async") and name not in ENDS:
            call = getattr(runtime, name)
            for value in WRONG:
                origin = handle.origin_hash
                for arguments in ([value], [origin, value], ["counter", value], ["counter", identity, value]):
                    try:
                        await asyncio.wait_for(asyncio.ensure_future(call(*arguments)), 5)
                    except TYPED as error:
                        if isinstance(error, FORBIDDEN):
                            note(name, arguments, {}, error)
                    except (ValueError, LookupError, TimeoutError) as error:
                        if not any(isinstance(one, Weird) for one in arguments):
                            note(name, arguments, {}, error)
                    except BaseException as error:
                        note(name, arguments, {}, error)
                    globals()["count"] += 1
    await runtime.shutdown_async()

asyncio.run(main())
"""
        + ENDING
    )

    clean(done, 500)


def test_every_call_is_refused_with_a_typed_error_after_the_end() -> None:
    done = walked(
        """
runtime, instances = made()
runtime.shutdown()
runtime.mesh().close()
for instance in instances:
    if isinstance(instance, Identity):
        instance.erase()
everything(instances)
for wrong in WRONG:
    attempt("DaemonRuntime", DaemonRuntime, wrong)
    attempt("DaemonRuntime", DaemonRuntime, Mesh.local(), loop=wrong)
    attempt("DaemonRuntime", DaemonRuntime, Mesh.local(), poll_interval=wrong)
    attempt("shutdown", runtime.shutdown, timeout=wrong)
    attempt("configure_lanes", meshos.compute.configure_lanes, wrong)
"""
        + ENDING
    )

    clean(done, 10_000)


def test_wrong_values_from_two_threads_are_refused_too() -> None:
    done = walked(
        """
runtime, instances = made()
barrier = threading.Barrier(2)
errors_of_threads = []

def work():
    try:
        barrier.wait(10)
        everything(instances)
    except BaseException as error:
        errors_of_threads.append(repr(error))

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
failures.extend(f"thread(): {error}" for error in errors_of_threads)
runtime.shutdown()
"""
        + ENDING
    )

    clean(done, 20_000)


@pytest.mark.parametrize(
    "module",
    [
        "audit",
        "capability",
        "chain",
        "channel",
        "compute",
        "control",
        "daemon",
        "dispatch",
        "events",
        "identity",
        "migration",
        "probes",
        "recovery",
        "scheduler",
        "status",
    ],
)
def test_an_instance_is_not_made_around_its_constructor(module: str) -> None:
    done = walked(
        f"""
module = importlib.import_module("meshos.{module}")
for name in module.__all__:
    cls = getattr(module, name)
    ours = isinstance(cls, type) and cls.__module__.startswith("meshos") and not issubclass(cls, enum.Enum)
    if ours and not inspect.isabstract(cls):
        for make in (object.__new__, lambda cls: cls.__new__(cls), lambda cls: cls.__reduce_ex__(cls, 2)):
            attempt(name, make, cls)
"""
        + ENDING
    )

    clean(done, 2)
