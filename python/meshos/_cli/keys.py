"""`meshos key`: makes and shows key files of operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.output import show, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from meshos.operator import OperatorKey


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    new = command("key new", _new, "make a key", "Make a key of an operator, in a new private file.")
    new.add_argument("file", type=Path, metavar="FILE", help="the key file")
    how = new.add_mutually_exclusive_group()
    how.add_argument("--no-passphrase", action="store_true", help="leave the key open to who can read the file")
    passphrase_option(how)
    new.add_argument("--force", action="store_true", help="replace a key file that is there")

    look = command("key show", _show, "show whose key a file holds", "Show the public half of a key file.")
    look.add_argument("file", type=Path, metavar="FILE", help="the key file")


def passphrase_option(parser: argparse._ActionsContainer) -> None:
    """Add where the passphrase comes from; by default from who sits at the terminal."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="a private file or a pipe whose first line is the passphrase",
    )


def load(file: Path, passphrase_file: Path | None) -> OperatorKey:
    """Open a key file, and ask for its passphrase only if it has one."""
    from meshos import _keyfile
    from meshos._cli.terminal import passphrase
    from meshos.operator import OperatorKey

    sealed = _keyfile.look(str(file)).sealed
    return OperatorKey.load(
        file, passphrase=passphrase(passphrase_file, f"passphrase of {file.name}: ") if sealed else None
    )


def _new(options: argparse.Namespace) -> ExitCode:
    from nacl.signing import SigningKey

    from meshos import _keyfile
    from meshos._cli.terminal import passphrase

    secret = None
    if not options.no_passphrase:
        secret = passphrase(options.passphrase_file, "new passphrase: ", twice=True)
    key = SigningKey.generate()
    _keyfile.write(str(options.file), bytes(key), bytes(key.verify_key), secret, replace=options.force)
    return _tell(options, bytes(key.verify_key), sealed=secret is not None)


def _show(options: argparse.Namespace) -> ExitCode:
    from meshos import _keyfile

    found = _keyfile.look(str(options.file))
    if not found.sealed:
        _keyfile.read(str(options.file), None)
    return _tell(options, found.public_key, sealed=found.sealed)


def _tell(options: argparse.Namespace, public_key: bytes, *, sealed: bool) -> ExitCode:
    from meshos._core import operator_id
    from meshos._plain import handle

    operator = handle(operator_id(public_key))
    if options.json:
        write_json({"ok": True, "operator_id": operator, "public_key": public_key.hex(), "sealed": sealed})
    else:
        show((f"operator    {operator}", f"public key  {public_key.hex()}", f"passphrase  {'yes' if sealed else 'no'}"))
    return ExitCode.OK
