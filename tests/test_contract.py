"""What a daemon class must look like, and what is read off it."""

import functools
import gc
import subprocess
import sys
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest

from meshos._contract import NAME_BYTES_MAX, SCHEMA_MAX, Contract, contract_of
from meshos.capability import CapabilityFilter, CapabilitySet
from meshos.chain import CausalEvent
from meshos.control import DaemonControl
from meshos.daemon import DaemonHealth, DaemonLifecycleObserver, Healthy, MeshDaemon
from meshos.errors import InvalidArgument, InvalidDaemon


class Null(MeshDaemon):
    def process(self, event: CausalEvent) -> None:
        pass


class Full(MeshDaemon):
    name = "full"
    schema = 3

    async def process(self, event: CausalEvent) -> bytes:
        return event.payload

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass

    def upgrade(self, state: bytes, schema: int) -> bytes:
        return state

    def health(self) -> DaemonHealth:
        return Healthy()

    def saturation(self) -> float:
        return 0.5

    async def on_control(self, control: DaemonControl) -> None:
        pass


def made(*bases: type, **members: object) -> type:
    """A daemon class with these members; `process` is there unless given."""
    return type("Made", bases or (MeshDaemon,), {"process": lambda self, event: None, **members})


def refused(cls: type) -> InvalidDaemon:
    with pytest.raises(InvalidDaemon) as caught:
        contract_of(cls)
    return caught.value


# ---------------------------------------------------------------- what is read


def test_a_class_with_process_alone_promises_nothing_else() -> None:
    assert contract_of(Null) == Contract(
        name="Null",
        schema=1,
        stateful=False,
        reports_health=False,
        reports_saturation=False,
        takes_control=False,
        upgrades=False,
        asynchronous=False,
    )


def test_what_is_overridden_is_promised() -> None:
    assert contract_of(Full) == Contract(
        name="full",
        schema=3,
        stateful=True,
        reports_health=True,
        reports_saturation=True,
        takes_control=True,
        upgrades=True,
        asynchronous=True,
    )


def test_what_is_inherited_is_promised() -> None:
    class Child(Full):
        pass

    assert contract_of(Child) == contract_of(Full)


def test_a_mixin_before_the_abstract_class_counts() -> None:
    class Saved:
        def snapshot(self) -> bytes:
            return b""

        def restore(self, state: bytes) -> None:
            pass

    assert contract_of(made(Saved, MeshDaemon)).stateful


def test_the_name_is_the_class_s_own_unless_given() -> None:
    class Named(Null):
        name = "chosen"

    class Unnamed(Null):
        pass

    class Heir(Named):
        pass

    assert [contract_of(cls).name for cls in (Named, Unnamed, Heir)] == ["chosen", "Unnamed", "chosen"]
    assert (Unnamed.name, Unnamed().name) == ("Unnamed", "Unnamed")


def test_a_class_is_read_once() -> None:
    class Changing(Null):
        pass

    before = contract_of(Changing)
    Changing.name = ""

    assert contract_of(Changing) is before


def test_the_answer_does_not_keep_the_class_alive() -> None:
    cls = made()
    contract_of(cls)
    gone = weakref.ref(cls)

    del cls
    gc.collect()

    assert gone() is None


def test_a_class_without_a_hash_is_read_every_time() -> None:
    class Meta(type(MeshDaemon)):  # type: ignore[misc]
        __hash__ = None  # type: ignore[assignment]

    cls = Meta("Odd", (Null,), {})

    assert contract_of(cls).name == "Odd"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("thing", [int, 3, "Null", None, object(), Null()])
def test_something_else_is_refused(thing: type) -> None:
    error = refused(thing)

    assert error.kind == "not_a_mesh_daemon"


def test_a_virtual_subclass_is_refused() -> None:
    """It would inherit none of the defaults that the engine calls."""

    class Duck:
        def process(self, event: CausalEvent) -> None:
            pass

    MeshDaemon.register(Duck)

    assert refused(Duck).kind == "not_a_mesh_daemon"


def test_snapshot_without_restore_is_refused() -> None:
    error = refused(made(snapshot=lambda self: b""))

    assert (error.kind, error.daemon_class) == ("snapshot_without_restore", "Made")
    assert "`restore`" in str(error)


def test_restore_without_snapshot_is_refused() -> None:
    error = refused(made(restore=lambda self, state: None))

    assert error.kind == "restore_without_snapshot"
    assert "`snapshot`" in str(error)


def test_a_refused_class_is_refused_again() -> None:
    cls = made(snapshot=lambda self: b"")

    assert refused(cls).kind == refused(cls).kind == "snapshot_without_restore"


def test_an_abstract_class_is_refused() -> None:
    class Still(MeshDaemon):
        @abstractmethod
        def price(self) -> int: ...

    error = refused(Still)

    assert error.kind == "bad_signature"
    assert "price, process" in str(error)


class Mixin:
    def snapshot(self) -> bytes:
        return b"state"


def test_a_mixin_that_is_hidden_is_refused() -> None:
    """Its state would silently be lost."""
    error = refused(made(MeshDaemon, Mixin))

    assert error.kind == "bad_signature"
    assert "`Mixin.snapshot` is hidden" in str(error)


def test_a_protocol_after_the_abstract_class_is_no_mixin() -> None:
    class Saves(Protocol):
        def snapshot(self) -> bytes: ...

    assert not contract_of(made(MeshDaemon, Saves)).stateful


def generator(self: object, *_: object) -> Iterator[bytes]:
    yield b""


async def coroutine(self: object, *_: object) -> bytes:
    return b""


async def async_generator(self: object, *_: object) -> AsyncIterator[bytes]:
    yield b""


STATE = {"snapshot": lambda self: b"", "restore": lambda self, state: None}


@pytest.mark.parametrize("method", ["snapshot", "restore", "upgrade", "health", "saturation", "requirements"])
@pytest.mark.parametrize("function", [generator, coroutine, async_generator])
def test_a_method_that_is_called_once_and_not_awaited_must_be_plain(method: str, function: object) -> None:
    error = refused(made(**{**STATE, method: function}))

    assert error.kind == "bad_signature"
    assert f"`{method}` is " in str(error)


@pytest.mark.parametrize("function", [generator, coroutine, async_generator])
def test_process_may_be_async_and_may_yield(function: object) -> None:
    assert contract_of(made(process=function)).name == "Made"


def test_on_control_may_be_async_but_not_yield() -> None:
    assert contract_of(made(on_control=coroutine)).takes_control
    assert refused(made(on_control=generator)).kind == "bad_signature"
    assert refused(made(on_control=async_generator)).kind == "bad_signature"


@pytest.mark.parametrize(
    ("method", "function"),
    [
        ("process", lambda self: None),
        ("process", lambda self, event, more: None),
        ("process", lambda self, *, event: None),
        ("process", lambda self, event, *, more: None),
        ("process", lambda: None),
        ("process", staticmethod(lambda: None)),
        ("process", staticmethod(lambda event, more: None)),
        ("process", classmethod(lambda cls: None)),
        ("process", 3),
        ("process", property(lambda self: None)),
        ("snapshot", lambda self, more: b""),
        ("snapshot", None),
        ("restore", lambda self: None),
        ("upgrade", lambda self, state: state),
        ("upgrade", lambda self, state, schema, more: state),
        ("health", lambda self, more: None),
        ("saturation", lambda: 0.0),
        ("on_control", lambda self: None),
        ("requirements", lambda self, more: None),
        ("is_stateful", lambda self: True),
        ("required_capabilities", ["gpu"]),
        ("optional_capabilities", None),
    ],
)
def test_a_member_that_cannot_be_used_is_refused(method: str, function: object) -> None:
    error = refused(made(**{**STATE, method: function}))

    assert error.kind == "bad_signature"
    assert f"`{method}` " in str(error)


class Handler:
    def __call__(self, event: CausalEvent) -> None:
        pass


@pytest.mark.parametrize(
    "function",
    [
        lambda self, event: None,
        lambda self, event, more=1: None,
        lambda self, event, *, more=1: None,
        lambda self, *events: None,
        lambda *anything, **more: None,
        staticmethod(lambda event: None),
        classmethod(lambda cls, event: None),
        functools.partialmethod(lambda self, more, event: None, 1),
        functools.lru_cache(lambda self, event: None),
        Handler(),
        len,
    ],
)
def test_process_may_be_anything_that_takes_one_event(function: object) -> None:
    assert contract_of(made(process=function)).name == "Made"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", ""),
        ("name", 7),
        ("name", None),
        ("name", b"bytes"),
        ("name", property(lambda self: "late")),
        ("name", "a" * (NAME_BYTES_MAX + 1)),
        ("name", "ü" * (NAME_BYTES_MAX // 2 + 1)),
        ("name", "\ud800"),
        ("schema", 0),
        ("schema", -1),
        ("schema", SCHEMA_MAX + 1),
        ("schema", 1.0),
        ("schema", True),
        ("schema", "1"),
    ],
)
def test_a_bad_name_or_schema_is_refused(member: str, value: object) -> None:
    error = refused(made(**{member: value}))

    assert error.kind == "bad_name"
    assert f"`{member}` " in str(error)


@pytest.mark.parametrize("name", ["a", "a" * NAME_BYTES_MAX, "ü" * (NAME_BYTES_MAX // 2), "gateway 7/north"])
def test_a_good_name_is_taken_as_it_is(name: str) -> None:
    assert contract_of(made(name=name)).name == name


def test_a_name_or_schema_of_a_subclass_becomes_plain() -> None:
    class Label(str):
        __slots__ = ()

    class Version(int):
        pass

    contract = contract_of(made(name=Label("label"), schema=Version(SCHEMA_MAX)))

    assert (type(contract.name), type(contract.schema)) == (str, int)
    assert (contract.name, contract.schema) == ("label", SCHEMA_MAX)


# ---------------------------------------------------------------- what the abstract class does by itself


def test_the_defaults_of_a_daemon() -> None:
    daemon = Null()

    assert daemon.snapshot() is None
    assert daemon.health() == Healthy()
    assert daemon.saturation() == 0.0
    assert daemon.requirements() == CapabilityFilter()
    assert not daemon.is_stateful()
    assert Full().is_stateful()


def test_what_a_daemon_requires_is_asked_of_nodes() -> None:
    class Picky(Null):
        required_capabilities = CapabilitySet(["hardware.gpu"])

    assert Picky().requirements() == CapabilityFilter(require_tags=frozenset(["hardware.gpu"]))


def test_a_daemon_without_state_takes_no_state() -> None:
    Null().restore(b"")

    with pytest.raises(InvalidArgument, match="5 bytes for Null"):
        Null().restore(b"state")


def test_a_daemon_without_upgrade_takes_no_older_state() -> None:
    with pytest.raises(InvalidArgument, match="schema 2 to 3"):
        super(Full, Full()).upgrade(b"", 2)


@pytest.mark.parametrize("cls", [MeshDaemon, DaemonLifecycleObserver])
def test_the_abstract_classes_cost_no_memory_and_make_no_instance(cls: type) -> None:
    assert cls.__dict__["__slots__"] == ()
    with pytest.raises(TypeError, match="abstract"):
        cls()


def test_a_contract_is_read_without_inspect() -> None:
    code = (
        "import sys; from meshos._contract import contract_of; from meshos import MeshDaemon\n"
        "class D(MeshDaemon):\n    def process(self, event): ...\n"
        "contract_of(D); print('inspect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
