"""The public surface as a whole: what it names, how it is typed, and what importing it costs."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import meshos

ROOT = Path(__file__).parents[1]
STUB = ROOT / "stubs" / "meshos" / "_core.pyi"
SOURCES = [STUB, *sorted((ROOT / "python" / "meshos").rglob("*.py"))]
MODULES = sorted(found.name for found in pkgutil.iter_modules(meshos.__path__) if not found.name.startswith("_"))

TWO_HOMES = ("EntityKeypair", "InvariantViolation")
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
every_module = pytest.mark.parametrize("module", MODULES)


def public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


class Function(NamedTuple):
    """A function or method, and the classes around it."""

    scope: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


def definitions(body: list[ast.stmt], scope: str = "") -> Iterator[Function | ast.AnnAssign]:
    """Yield every public function, method and annotated name of a module or class."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and public(node.name):
            yield Function(scope, node)
        elif isinstance(node, ast.ClassDef) and public(node.name):
            yield from definitions(node.body, f"{scope}{node.name}.")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and public(node.target.id):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from definitions(node.body, scope)
            yield from definitions(node.orelse, scope)


def read(source: Path) -> list[Function | ast.AnnAssign]:
    return list(definitions(ast.parse(source.read_text(encoding="utf-8")).body))


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    arguments = node.args
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def names_in(annotation: ast.expr) -> set[str]:
    """The names that an annotation uses; a string in it is an annotation, unless it stands in a `Literal`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return names_in(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and "Literal" in ast.unparse(annotation.value):
        return set()
    if isinstance(annotation, ast.Name):
        return {annotation.id}
    if isinstance(annotation, ast.Attribute):
        return {annotation.attr}
    return {
        name for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr) for name in names_in(child)
    }


# ---------------------------------------------------------------- types


@every_source
def test_every_public_signature_is_typed_and_says_something(source: Path) -> None:
    """`Any` says nothing, and what is in a `dict` nobody knows."""
    vague = []
    for found in read(source):
        if isinstance(found, ast.AnnAssign):
            vague += [ast.unparse(found)] if names_in(found.annotation) & {"Any", "dict", "Dict"} else []
            continue
        where = f"{found.scope}{found.node.name}"
        for argument in parameters(found.node):
            if argument.arg in ("self", "cls") and found.scope:
                continue
            if argument.annotation is None or names_in(argument.annotation) & {"Any", "dict", "Dict"}:
                vague.append(f"{where}({argument.arg})")
        if found.node.returns is None or names_in(found.node.returns) & {"Any", "dict", "Dict"}:
            vague.append(f"{where} -> ")

    assert vague == []


def shape(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, str, bool]]:
    """Name, annotation and whether there is a default, of each parameter, with `/` and `*` where they stand."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    first_default = len(plain) - len(arguments.defaults)
    shown = [(argument, number >= first_default) for number, argument in enumerate(plain)]
    keywords = [
        (argument, default is not None)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    described = [
        (argument.arg, ast.unparse(argument.annotation) if argument.annotation else "", default)
        for argument, default in [*shown, *keywords]
    ]
    described.insert(len(plain), ("*", "", False))
    described.insert(len(arguments.posonlyargs), ("/", "", False))
    return described


def test_every_async_twin_has_the_parameters_of_the_plain_call() -> None:
    """The plain call may be of the class itself, or of one it inherits from: natively, the twin in Python."""
    functions = {
        (found.scope, found.node.name): found.node
        for source in SOURCES
        for found in read(source)
        if isinstance(found, Function)
    }
    bases = {
        f"{node.name}.": [f"{ast.unparse(base)}." for base in node.bases]
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    twins = [(scope, name) for scope, name in functions if name.endswith("_async")]

    assert len(twins) > 10
    for scope, name in twins:
        candidates = (functions.get((above, name.removesuffix("_async"))) for above in (scope, *bases.get(scope, [])))
        plain = next((found for found in candidates if found is not None), None)
        twin = functions[scope, name]
        assert isinstance(plain, ast.FunctionDef), f"{scope}{name} has no plain form"
        assert shape(twin) == shape(plain), f"{scope}{name}"
        assert twin.returns is not None
        assert plain.returns is not None
        result = ast.unparse(plain.returns)
        if isinstance(twin, ast.FunctionDef):
            result = f"Coroutine[object, None, {result}]"
        assert ast.unparse(twin.returns) == result, f"{scope}{name}"


def test_the_runtime_has_the_twin_of_every_call_that_waits() -> None:
    from meshos.compute import DaemonRuntime

    waiting = {
        "start",
        "shutdown",
        "spawn",
        "spawn_with_daemon",
        "spawn_from_snapshot",
        "spawn_from_snapshot_with_daemon",
        "stop",
        "snapshot",
        "export_chain",
        "with_daemon",
        "deliver",
        "deliver_many",
        "send",
    }

    for name in waiting:
        assert callable(getattr(DaemonRuntime, name))
        assert callable(getattr(DaemonRuntime, f"{name}_async"))


# ---------------------------------------------------------------- names


@every_module
def test_all_is_what_is_there(module: str) -> None:
    """`__all__` has every name that a module defines or hands on, and nothing else."""
    loaded = importlib.import_module(f"meshos.{module}")
    tree = ast.parse(Path(inspect.getfile(loaded)).read_text(encoding="utf-8"))
    named = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            named |= {name.asname for name in node.names if name.asname is not None}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            named.add(node.name)
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) in ("TypeAlias", "Final"):
            named.add(ast.unparse(node.target))

    declared = getattr(loaded, "__all__", [])
    assert sorted(declared) == sorted(set(declared))
    assert all(hasattr(loaded, name) for name in declared)
    if declared:
        assert set(declared) == {name for name in named if not name.startswith("_")}
    else:
        assert hasattr(loaded, "__path__"), "a module without `__all__`"


@every_module
def test_a_public_class_says_where_it_lives(module: str) -> None:
    """Or it could not be pickled, and its repr would send people to the wrong place."""
    loaded = importlib.import_module(f"meshos.{module}")
    for name in getattr(loaded, "__all__", []):
        value = getattr(loaded, name)
        if isinstance(value, type) and value.__module__ != "builtins":
            assert getattr(importlib.import_module(value.__module__), value.__name__) is value
            assert value.__module__ == f"meshos.{module}" or value.__name__ != name or name in TWO_HOMES


def test_the_package_has_the_everyday_names() -> None:
    assert set(meshos.__all__) == set(meshos._HOME)
    assert len(set(meshos.__all__)) == len(meshos.__all__)
    for name, home in meshos._HOME.items():
        assert getattr(meshos, name) is getattr(importlib.import_module(f"meshos.{home}"), name)


def test_type_checkers_see_the_same_names_as_users() -> None:
    tree = ast.parse(Path(inspect.getfile(meshos)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        name.asname: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }

    names = {name: module.removeprefix("meshos.") for name, module in imported.items() if module != "meshos"}
    assert names == meshos._HOME
    assert {name for name, module in imported.items() if module == "meshos"} == set(meshos._MODULES)


def test_dir_shows_names_that_are_not_loaded_yet() -> None:
    code = "import meshos; print(*dir(meshos))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {*meshos.__all__, *meshos._MODULES} <= set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'meshos' has no attribute 'Deamon'"):
        meshos.Deamon  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from meshos import Deamon  # type: ignore[attr-defined]  # noqa: F401


def test_submodules_are_attributes() -> None:
    code = "import meshos; print(meshos.errors.MeshOsError.__name__, meshos.daemon.MeshDaemon.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "MeshOsError MeshDaemon\n"


def test_what_a_later_issue_brings_is_absent() -> None:
    for name in ("ReplicaGroup", "GroupError"):
        assert not hasattr(meshos, name)
        assert not hasattr(meshos.errors, name)


# ---------------------------------------------------------------- what importing costs

COST = """
import os, sys, threading
{statement}
print(*sys.modules)
tasks = "/proc/self/task"
print(threading.active_count(), len(os.listdir(tasks)) if os.path.isdir(tasks) else 1)
"""


@pytest.mark.parametrize("statement", ["import meshos", "from meshos import *"])
def test_import_starts_no_thread_and_loads_nothing_heavy(statement: str) -> None:
    code = COST.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    modules, threads = done.stdout.splitlines()
    assert not {"asyncio", "logging", "nacl", "inspect"} & set(modules.split())
    assert threads == "1 1"


def test_import_of_the_package_alone_loads_nothing_of_it() -> None:
    code = "import sys, meshos; print(*(name for name in sys.modules if name.startswith('meshos')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["meshos"]
