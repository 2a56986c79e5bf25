"""What a command says, for people or as one JSON object. Foreign text never reaches a terminal as it came."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode, code_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Failure(Exception):
    """A command ends here; the text is for people, `kind` for programs."""

    def __init__(self, code: ExitCode, kind: str, message: str, *, error: str = "Failure", **about: int) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.error = error
        self.about = about


def plain(text: str) -> str:
    """Return foreign text with everything escaped that a terminal would obey, or that hides or turns text around."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode("ascii") for each in text
    )


def complain(message: str, code: ExitCode) -> ExitCode:
    """Say on standard error what went wrong."""
    print(f"meshos: {plain(message)}", file=sys.stderr)
    return code


def show(lines: Iterable[str]) -> None:
    """Write lines for people."""
    for line in lines:
        print(line)


def write_json(found: Mapping[str, object]) -> None:
    """Write one JSON object."""
    import json

    print(json.dumps(found))


def refuse(error: Exception, *, json: bool) -> ExitCode:
    """Say what went wrong, and return how the command ends; an error that is not known here is raised again."""
    from meshos._node_client import Refused
    from meshos.errors import MeshOsError, VerifyError

    match error:
        case Failure():
            name, kind, code = error.error, error.kind, error.code
        case Refused():
            name, kind, code = error.error, error.kind, code_of(error.kind)
            # A later node may have more reasons than are known here.
            code = ExitCode.REJECTED if code is ExitCode.FAILED else code
        case MeshOsError():
            name, kind, code = type(error).__name__, error.kind, code_of(error.kind)
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            name, kind, code = type(error).__name__, "failed", ExitCode.UNREADABLE
            error = Failure(code, kind, f"{where}{error.strerror or error}")
        case _:
            raise error
    if not json:
        return complain(str(error) if isinstance(error, Failure) else f"{name}: {error}", code)
    about: dict[str, object] = {"ok": False, "error": name, "kind": kind, "message": str(error)}
    if isinstance(error, Failure):
        about |= error.about
    elif isinstance(error, Refused | VerifyError):
        about["audit_seq"] = error.audit_seq
    write_json(about)
    return code
