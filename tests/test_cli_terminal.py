"""Commands at a terminal: what is read before anybody is asked, and what is left of a question that was broken off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemons import PATIENCE
from meshos.cli import ExitCode
from test_cli_operator import ALICE, AT_A_TERMINAL, BOB, at_a_terminal, made

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


@pytest.mark.parametrize("altered", ["signature", "text"])
def test_what_was_signed_before_is_read_before_anybody_is_asked(altered: str, tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice.key")
    file = tmp_path / "freeze.env"
    envelope = made()
    text = envelope.with_signatures([BOB.sign(envelope)]).to_text()
    lines = text.splitlines(keepends=True)
    # The last but one of the lines with bytes has nothing but a part of the signature.
    place = -3 if altered == "signature" else 2
    lines[place] = ("B" if lines[place][0] == "A" else "A") + lines[place][1:]
    file.write_text("".join(lines))

    ended, out, err, shown = at_a_terminal(("ice", "sign", file, "--key", tmp_path / "alice.key"), [])

    assert ended == ExitCode.UNREADABLE
    assert "Type" not in out + err + shown
    assert "BREAK GLASS" not in out


def test_a_terminal_is_left_as_it_was_found(tmp_path: Path) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-c", AT_A_TERMINAL, "key", "new", str(tmp_path / "new.key")]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        seen = b""
        while b"new passphrase: " not in seen:
            seen += os.read(ours, 4096)
        while termios.tcgetattr(theirs)[3] & termios.ECHO:
            os.read(ours, 4096)
        os.write(ours, b"secr\x03")
        process.communicate(timeout=PATIENCE)
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    os.close(ours)

    assert process.returncode == ExitCode.INTERRUPTED
    assert after == before
    assert not (tmp_path / "new.key").exists()
