"""What a daemon class promises: checked once per class, before anything is made of it.

The rules are about the class alone, so the answer is kept per class.
"""

from contextlib import suppress
from types import FunctionType
from typing import NamedTuple
from weakref import WeakKeyDictionary

from meshos._core import CapabilitySet
from meshos._signature import ASYNC_GENERATOR, COROUTINE, Rule, misfit
from meshos.daemon import MeshDaemon
from meshos.errors import InvalidDaemon

NAME_BYTES_MAX = 255
SCHEMA_MAX = 2**32 - 1


class Contract(NamedTuple):
    """What a class overrides, and under which name."""

    name: str
    schema: int
    stateful: bool
    reports_health: bool
    reports_saturation: bool
    takes_control: bool
    upgrades: bool
    asynchronous: bool


_RULES = {
    "process": Rule(1, awaited=True, iterated=True),
    "snapshot": Rule(0),
    "restore": Rule(1),
    "upgrade": Rule(2),
    "health": Rule(0),
    "saturation": Rule(0),
    "on_control": Rule(1, awaited=True),
    "requirements": Rule(0),
}

_known: WeakKeyDictionary[type, Contract] = WeakKeyDictionary()


def contract_of(cls: type) -> Contract:
    """Return what `cls` promises.

    Raises:
        InvalidDaemon: The class cannot be run as a daemon.
    """
    with suppress(KeyError, TypeError):  # TypeError: not a class, or one whose metaclass has no hash
        return _known[cls]
    contract = _read(cls)
    with suppress(TypeError):
        _known[cls] = contract
    return contract


def _read(cls: object) -> Contract:
    # `MeshDaemon.register` makes `issubclass` true of a class that inherits none of the defaults.
    if not isinstance(cls, type) or MeshDaemon not in cls.__mro__:
        shown = cls.__qualname__ if isinstance(cls, type) else repr(cls)
        raise InvalidDaemon("not_a_mesh_daemon", shown, "it is not a subclass of MeshDaemon")
    left = sorted(getattr(cls, "__abstractmethods__", ()))
    if left:
        raise _bad_signature(cls, f"it does not override {', '.join(left)}")
    if _overrides(cls, "is_stateful"):
        raise _bad_signature(cls, "`is_stateful` is not for overriding: `snapshot` and `restore` decide")
    for method, rule in _RULES.items():
        if _overrides(cls, method):
            _check_method(cls, method, rule)
        else:
            _check_not_hidden(cls, method)
    for attribute in ("required_capabilities", "optional_capabilities"):
        value: object = getattr(cls, attribute)
        if not isinstance(value, CapabilitySet):
            raise _bad_signature(cls, f"`{attribute}` is a {type(value).__name__}, not a CapabilitySet")
    return Contract(
        name=_name(cls),
        schema=_schema(cls),
        stateful=_stateful(cls),
        reports_health=_overrides(cls, "health"),
        reports_saturation=_overrides(cls, "saturation"),
        takes_control=_overrides(cls, "on_control"),
        upgrades=_overrides(cls, "upgrade"),
        asynchronous=_asynchronous(cls),
    )


def _asynchronous(cls: type) -> bool:
    code = getattr(getattr(cls, "process", None), "__code__", None)
    return bool(getattr(code, "co_flags", 0) & (COROUTINE | ASYNC_GENERATOR))


def _stateful(cls: type) -> bool:
    saves, loads = _overrides(cls, "snapshot"), _overrides(cls, "restore")
    if saves and not loads:
        message = "it overrides `snapshot` but not `restore`, so its state could not be taken over"
        raise InvalidDaemon("snapshot_without_restore", cls.__qualname__, message)
    if loads and not saves:
        message = "it overrides `restore` but not `snapshot`, so its state would be lost"
        raise InvalidDaemon("restore_without_snapshot", cls.__qualname__, message)
    return saves


def _name(cls: type[MeshDaemon]) -> str:
    name: object = cls.name
    if not isinstance(name, str):
        raise _bad_name(cls, f"`name` is a {type(name).__name__}, not a str")
    if not name:
        raise _bad_name(cls, "`name` is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise _bad_name(cls, f"`name` is not Unicode text: {name!a}") from None
    if size > NAME_BYTES_MAX:
        raise _bad_name(cls, f"`name` has {size} bytes of UTF-8, more than {NAME_BYTES_MAX}")
    return str.__str__(name)


def _schema(cls: type[MeshDaemon]) -> int:
    schema: object = cls.schema
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise _bad_name(cls, f"`schema` is a {type(schema).__name__}, not an int")
    if not 1 <= schema <= SCHEMA_MAX:
        raise _bad_name(cls, f"`schema` is {schema}, not between 1 and {SCHEMA_MAX}")
    return int(schema)


def _check_method(cls: type, method: str, rule: Rule) -> None:
    found = _found(cls, method)
    function, given = found, rule.arguments + 1
    if isinstance(found, (staticmethod, classmethod)):
        function = found.__func__
        given -= isinstance(found, staticmethod)
    if not isinstance(function, FunctionType):
        # Something callable that is not written in Python, or binds in a way of its own: only the call can tell.
        called = callable(function)
        bound = hasattr(function, "__get__") and not hasattr(function, "__set__")
        if called or bound:
            return
        raise _bad_signature(cls, f"`{method}` is a {type(function).__name__}, not a method")
    wrong = misfit(function, rule, given)
    if wrong is not None:
        raise _bad_signature(cls, f"`{method}` {wrong}")


def _check_not_hidden(cls: type, method: str) -> None:
    """Refuse `class Late(MeshDaemon, Mixin)`, where what `Mixin` defines would silently never be called."""
    after = cls.__mro__[cls.__mro__.index(MeshDaemon) + 1 :]
    for base in after:
        if method in base.__dict__ and not getattr(base, "_is_protocol", False):
            message = f"`{base.__qualname__}.{method}` is hidden by MeshDaemon; name {base.__qualname__} before it"
            raise _bad_signature(cls, message)


def _overrides(cls: type, method: str) -> bool:
    return _found(cls, method) is not MeshDaemon.__dict__[method]


def _found(cls: type, method: str) -> object:
    return next(base.__dict__[method] for base in cls.__mro__ if method in base.__dict__)


def _bad_signature(cls: type, message: str) -> InvalidDaemon:
    return InvalidDaemon("bad_signature", cls.__qualname__, message)


def _bad_name(cls: type, message: str) -> InvalidDaemon:
    return InvalidDaemon("bad_name", cls.__qualname__, message)
