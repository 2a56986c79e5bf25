"""Writes the part of `docs/errors.md` that follows from the classes: `python tests/error_page.py`."""

import inspect
import re
from typing import Literal, get_args, get_origin, get_type_hints

from meshos import errors
from pages import ROOT

HEADING = "## Classes"


def page(text: str) -> str:
    """Return the page with everything from the heading on as the classes say."""
    head, found, _ = text.partition(f"\n{HEADING}\n")
    assert found, f"there is no heading {HEADING!r}"
    return f"{head}\n{HEADING}\n\n{tree(errors.MeshOsError)}" + "".join(entry(cls) for cls in below(errors.MeshOsError))


def below(cls: type[errors.MeshOsError]) -> list[type[errors.MeshOsError]]:
    """Return a class and all below it, in the order of the module."""
    found = [cls]
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            found += below(child)
    return found


def tree(cls: type[errors.MeshOsError], depth: int = 0) -> str:
    """Draw the tree as a list."""
    line = f"{'  ' * depth}* [{cls.__name__}](#{cls.__name__.lower()})\n"
    children = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return line + "".join(tree(child, depth + 1) for child in children)


def entry(cls: type[errors.MeshOsError]) -> str:
    """Say what a class is, and what its text says."""
    text, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    bases = [f"`{base.__name__}`" for base in cls.__bases__]
    facts = [f"A subclass of {' and '.join(bases)}."]
    if kinds := kinds_of(cls):
        facts.append(f"`kind`: {', '.join(f'`{kind}`' for kind in kinds)}.")
    listed = re.sub(r"\n +", " ", inspect.cleandoc(attributes))
    lines = [re.sub(r"^([\w, ]+): ", mark, line) for line in listed.splitlines()]
    body = f"\n### {cls.__name__}\n\n{text.strip()}\n\n{' '.join(facts)}\n"
    return body + ("\n" + "\n".join(lines) + "\n" if lines else "")


def mark(found: "re.Match[str]") -> str:
    """Turn the names of attributes into code."""
    return "* " + ", ".join(f"`{name.strip()}`" for name in found[1].split(",")) + ": "


def kinds_of(cls: type[errors.MeshOsError]) -> list[str]:
    """Return the kinds that a class of its own can have."""
    kind = vars(cls).get("kind")
    if not isinstance(kind, property) or kind.fget is None or cls is errors.MeshOsError:
        return []
    return literals(get_type_hints(kind.fget, dict(vars(errors)))["return"])


def literals(hint: object) -> list[str]:
    """Return the values of a union of literals."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [value for part in get_args(hint) for value in literals(part)]


if __name__ == "__main__":
    file = ROOT / "docs/errors.md"
    file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")
