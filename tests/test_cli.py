"""The `meshos` command: what it prints, and the exit codes that docs/cli.md promises."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import meshos
from meshos import cli
from meshos.audit import FileLogAppender, LogRecord, verify_records
from meshos.chain import CausalEvent
from meshos.compute import DaemonRuntime
from meshos.daemon import MeshDaemon
from meshos.errors import IdentityError
from meshos.events import LogLevel
from meshos.identity import Identity
from meshos.mesh import Mesh

ROOT = Path(__file__).parents[1]
WORDS = (b"nothing", b"lost", b"nothing", b"twice")
SIGNER = Identity.from_seed(b"\x06" * 32)
OTHER = Identity.from_seed(b"\x05" * 32).entity_id


class Shout(MeshDaemon):
    def process(self, event: CausalEvent) -> bytes:
        return event.payload.upper()


class Exported(NamedTuple):
    file: Path
    entity: str


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    identity = Identity.generate()
    file = tmp_path / "shout.chain"
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("shout", Shout)
        runtime.start()
        shout = runtime.spawn("shout", identity)
        for number, word in enumerate(WORDS, 1):
            runtime.deliver(shout.origin_hash, CausalEvent.external(origin_hash=7, sequence=number, payload=word))
        runtime.export_chain(shout.origin_hash, file)
    return Exported(file, identity.entity_id.hex())


def meshos_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "meshos", *map(str, arguments)]


# ---------------------------------------------------------------- verify


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file of three records, signed by `SIGNER`."""
    file = tmp_path / "log.chain"
    appender = FileLogAppender(file, signer=SIGNER)
    for seq in range(1, 4):
        line = {"seq": seq, "at": datetime(2026, 11, 21, tzinfo=UTC), "message": f"line {seq}"}
        appender.append(LogRecord(level=LogLevel.INFO, node=1, daemon=None, **line))  # type: ignore[arg-type]
    appender.close()
    return file


@pytest.mark.parametrize("who", [None, "hex", "file"])
def test_a_file_of_records_is_verified(who: str | None, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = kept.with_suffix(".pub")
    key.write_bytes(SIGNER.entity_id)
    options = {None: [], "hex": ["--entity", SIGNER.entity_id.hex()], "file": ["--entity-file", str(key)]}[who]

    code = cli.main(["verify", str(kept), *options])

    out, err = capsys.readouterr()
    assert (code, err) == (cli.OK, "")
    signed = 0 if who is None else 3
    assert out == f"ok: 3 records\nhead    {verify_records(kept).head_digest.hex()}\nsigned  {signed}\n"


def test_records_that_another_signed_fail(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(kept), "--entity", OTHER.hex(), "--json"]) == cli.FAILED
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["records"], report["signed_through"]) == (False, 3, 0)


def test_a_bad_record_is_named(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_bytes(kept.read_bytes().replace(b"line 2", b"line 8"))

    assert cli.main(["verify", str(kept)]) == cli.FAILED
    assert "event 2: " in capsys.readouterr().err
    assert cli.main(["verify", str(kept), "--json"]) == cli.FAILED
    refusal = json.loads(capsys.readouterr().out)
    assert (refusal["ok"], refusal["error"], refusal["sequence"]) == (False, "BrokenLink", 2)


def test_a_file_of_records_that_was_cut_cannot_be_decoded(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_bytes(kept.read_bytes()[:-1])

    assert cli.main(["verify", str(kept)]) == cli.UNREADABLE
    assert str(kept) in capsys.readouterr().err
    (broken := kept.with_suffix(".pub")).write_bytes(b"no key")
    assert cli.main(["verify", str(kept), "--entity-file", str(broken)]) == cli.UNREADABLE


def test_a_chain_needs_a_key(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(exported.file)]) == cli.USAGE
    assert "--entity" in capsys.readouterr().err


def test_a_good_chain_is_verified(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["verify", str(exported.file), "--entity", exported.entity])

    out, err = capsys.readouterr()
    assert (code, err) == (cli.OK, "")
    assert out.startswith("ok: 4 events, 1 to 4\n")
    assert exported.entity in out


def test_a_good_chain_is_verified_as_json(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["verify", str(exported.file), "--entity", exported.entity, "--json"])

    report = json.loads(capsys.readouterr().out)
    assert code == cli.OK
    assert (report["ok"], report["entity_id"]) == (True, exported.entity)
    assert (report["events"], report["first_sequence"], report["last_sequence"], report["signed_through"]) == (
        4,
        1,
        4,
        4,
    )
    assert len(bytes.fromhex(report["digest"])) == 32
    (owner,) = report["owners"]
    assert len(bytes.fromhex(owner.pop("node"))) == 32
    assert owner == {"epoch": 1, "first_sequence": 1, "last_sequence": 4, "rolled_back_from": None}


@pytest.mark.parametrize("form", ["raw", "hex", "line"])
def test_the_key_may_come_from_a_file(form: str, exported: Exported, tmp_path: Path) -> None:
    raw = bytes.fromhex(exported.entity)
    key = tmp_path / "shout.pub"
    key.write_bytes({"raw": raw, "hex": raw.hex().encode(), "line": b" " + raw.hex().upper().encode() + b"\r\n"}[form])

    assert cli.main(["verify", str(exported.file), "--entity-file", str(key)]) == cli.OK


def test_a_chain_of_another_daemon_fails(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["verify", str(exported.file), "--entity", OTHER.hex()])

    out, err = capsys.readouterr()
    assert (code, out) == (cli.FAILED, "")
    assert err.startswith(f"meshos: {exported.file}: ")
    assert err.count("\n") == 1


def test_no_flipped_byte_is_accepted(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    good = exported.file.read_bytes()
    codes = set()

    for offset in range(len(good)):
        data = bytearray(good)
        data[offset] ^= 1
        exported.file.write_bytes(data)
        codes.add(cli.main(["verify", str(exported.file), "--entity", exported.entity]))

    assert codes <= {cli.FAILED, cli.UNREADABLE}
    assert cli.FAILED in codes


def test_an_altered_event_is_named(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    data = exported.file.read_bytes()
    exported.file.write_bytes(data.replace(b"LOST", b"LOSS"))

    code = cli.main(["verify", str(exported.file), "--entity", exported.entity])

    assert code == cli.FAILED
    assert "event 2: " in capsys.readouterr().err


def test_an_altered_event_is_named_as_json(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    data = exported.file.read_bytes()
    exported.file.write_bytes(data.replace(b"LOST", b"LOSS"))

    code = cli.main(["verify", str(exported.file), "--entity", exported.entity, "--json"])

    out, err = capsys.readouterr()
    refusal = json.loads(out)
    assert (code, err) == (cli.FAILED, "")
    assert (refusal["ok"], refusal["error"], refusal["sequence"]) == (False, "BrokenLink", 2)


def test_a_chain_cut_off_anywhere_is_not_accepted(exported: Exported) -> None:
    good = exported.file.read_bytes()
    codes = set()

    for size in range(len(good)):
        exported.file.write_bytes(good[:size])
        codes.add(cli.main(["verify", str(exported.file), "--entity", exported.entity]))

    assert codes <= {cli.FAILED, cli.UNREADABLE}


@pytest.mark.parametrize("content", [b"", b"not a chain", bytes(4096)])
def test_a_file_that_is_no_chain_cannot_be_decoded(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)

    code = cli.main(["verify", str(file), "--entity", OTHER.hex(), "--json"])

    refusal = json.loads(capsys.readouterr().out)
    assert code == cli.UNREADABLE
    assert (refusal["error"], refusal["kind"], type(refusal["offset"])) == ("FileDecodeError", "bad_file", int)


@pytest.mark.parametrize("name", ["missing.chain", "."])
def test_a_file_that_cannot_be_opened_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["verify", str(tmp_path / name), "--entity", OTHER.hex()])

    out, err = capsys.readouterr()
    assert (code, out) == (cli.UNREADABLE, "")
    assert err.startswith("meshos: ")
    assert str(tmp_path / name) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"", b"0123", b"xy" * 32, bytes(300), b"\xff" * 64])
def test_a_key_file_that_cannot_be_read_is_one_line(
    content: bytes | None, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)

    code = cli.main(["verify", str(exported.file), "--entity-file", str(key)])

    err = capsys.readouterr().err
    assert code == cli.UNREADABLE
    assert err.startswith(f"meshos: {key}: ")
    assert err.count("\n") == 1


def test_events_that_nobody_signed_for_fail(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = SimpleNamespace(
        entity_id=OTHER, events=4, first_sequence=1, last_sequence=4, signed_through=2, digest=bytes(32), owners=()
    )
    monkeypatch.setattr("meshos.chain.verify_chain", lambda file, entity: report)

    codes = [cli.main(["verify", str(exported.file), "--entity", exported.entity, *more]) for more in ([], ["--json"])]

    text, obj = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert codes == [cli.FAILED, cli.FAILED]
    assert text.startswith("FAILED: events 3 to 4 are not signed for")
    assert json.loads(obj)["ok"] is False


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explode"],
        ["--explode"],
        ["verify"],
        ["verify", "x.chain"],
        ["verify", "--entity", OTHER.hex()],
        ["verify", "x.chain", "--entity", "0123"],
        ["verify", "x.chain", "--entity", "xy" * 32],
        ["verify", "x.chain", "--entity", " ".join(["00"] * 21) + " "],
        ["verify", "x.chain", "--entity", OTHER.hex(), "--entity-file", "key"],
        ["demo", "--data"],
        ["demo", "extra"],
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(arguments)

    out, err = capsys.readouterr()
    assert (code, out) == (cli.USAGE, "")
    assert err.startswith("usage: meshos")


def test_a_key_that_is_no_point_of_the_curve_is_a_wrong_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_point(raw: bytes) -> None:
        raise IdentityError("invalid_public_key", "not a point of the curve")

    monkeypatch.setattr("meshos.identity.EntityId", no_point)

    assert cli.main(["verify", "x.chain", "--entity", "00" * 32]) == cli.USAGE
    assert "not a point of the curve" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.OK
    assert capsys.readouterr().out == f"meshos {meshos.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["verify", "--help"]])
def test_help_and_docs_have_the_same_exit_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)

    code = cli.main(arguments)

    shown = re.findall(r"^  (\d+) +(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert code == cli.OK
    assert shown == documented
    assert shown == [(str(code.value), code.says) for code in cli.ExitCode]


def test_docs_name_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in ("demo", "verify"):
        cli.main([command, "--help"])
        for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
            assert option in page or option == "--help"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(meshos_command("--version"), capture_output=True, text=True, check=True)

    assert done.stdout == f"meshos {meshos.__version__}\n"


def test_help_needs_nothing_native() -> None:
    code = "import sys; from meshos.cli import main; main(['verify', '--help']); print('meshos._core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("False\n")


# ---------------------------------------------------------------- stopped on the way


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshos.demo.run.run", interrupted)

    assert cli.main(["demo"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "meshos: interrupted\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_ctrl_c_of_a_process_that_waits_for_its_data(tmp_path: Path) -> None:
    pipe = tmp_path / "flights.csv"
    os.mkfifo(pipe)
    command = meshos_command("demo", "--data", pipe)

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # The pipe opens when the command has opened its end of it.
    with process, pipe.open("wb"):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert process.returncode == cli.INTERRUPTED
    assert err == "meshos: interrupted\n"


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--no-progress"], ["--help"], ["--version"]])
@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
def test_a_closed_pipe_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Without a buffer argparse writes its help at once, and swallows what comes of it.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    done = subprocess.run(
        meshos_command(*arguments),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=buffered,
        timeout=30,
        check=False,
    )

    os.close(writer)
    assert done.returncode == cli.CLOSED
    assert done.stderr == ""
