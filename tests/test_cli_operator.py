"""Operating a node from a shell: the whole flow in processes of its own, what is refused, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from argparse import ArgumentTypeError
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, cast

import pytest
from jsonschema import Draft202012Validator
from nacl.pwhash import argon2id
from nacl.signing import SigningKey

from daemons import PATIENCE, eventually
from meshos import DaemonRef, cli
from meshos._cli import output, terminal, values
from meshos.cli import ExitCode
from meshos.operator import (
    AdminEnvelope,
    BlastRadius,
    BlastWarning,
    ForceRestartDaemon,
    FreezeCluster,
    IceEnvelope,
    OperatorKey,
    OperatorSignature,
)
from pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshos.operator import IceAction

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the system has no Unix-domain sockets")

CLUSTER = "test-cluster"
ALICE, BOB, CAROL, EVE = (OperatorKey(SigningKey(bytes([number]) * 32)) for number in (1, 2, 3, 4))
"""Alice and Bob may use both sorts, Carol ordinary commands only, and nobody knows Eve."""
COMMAND = [sys.executable, "-m", "meshos"]
BLAST = BlastRadius(
    affected_nodes=(1,),
    affected_replicas=(),
    affected_daemons=(),
    estimated_drain_delay=timedelta(minutes=5),
    placement_churn_basis_points=0,
    warnings=(BlastWarning("cluster_freeze_blocks_operator_actions"),),
)
FREEZE = FreezeCluster(timedelta(minutes=5))


class World:
    """A node in a process of its own, key files, and what a command said last."""

    def __init__(self, folder: Path, socket_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.socket = socket_path
        self.capsys = capsys
        self.out = self.err = ""
        for name, key in (("alice", ALICE), ("bob", BOB), ("carol", CAROL), ("eve", EVE)):
            key.save(folder / f"{name}.key")
        self.audit = folder / "audit.chain"
        keys = [bytes(ALICE.verify_key).hex(), bytes(BOB.verify_key).hex(), f"admin:{bytes(CAROL.verify_key).hex()}"]
        keys.append(f"audit:{self.audit}")
        command = [sys.executable, str(ROOT / "tests" / "operated_node.py"), str(socket_path), CLUSTER, *keys]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.heard("ready")

    def heard(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self.heard("done")

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)

    def file(self, name: str) -> Path:
        return self.folder / name

    def __call__(self, *arguments: object) -> ExitCode:
        """Run a command here, and keep what it says."""
        code = cli.main([str(argument) for argument in arguments])
        self.out, self.err = self.capsys.readouterr()
        return ExitCode(code)

    def json(self, *arguments: object) -> dict[str, Any]:
        """Run a command with --json, and return its object, which is of the schema."""
        code = self(*arguments, "--json")
        return checked(arguments, code, self.out)

    def propose(self, name: str = "freeze.env", *action: object) -> Path:
        """Write a proposal of the node."""
        file = self.file(name)
        chosen = action or ("freeze-cluster", "--ttl", "5m")
        assert self("ice", "propose", *chosen, "--node", self.socket, "--reason", "test", "--out", file) is ExitCode.OK
        return file

    def sign(self, file: Path, *names: str) -> Path:
        for name in names:
            assert self("ice", "sign", file, "--key", self.file(f"{name}.key"), "--yes") is ExitCode.OK
        return file

    def submit(self, *files: Path) -> ExitCode:
        return self("ice", "submit", "--node", self.socket, *files)

    def submit_json(self, *files: Path) -> dict[str, Any]:
        return self.json("ice", "submit", "--node", self.socket, *files)

    def admin(self, *arguments: object, by: str = "alice") -> ExitCode:
        key = self.file(f"{by}.key")
        return self("admin", *arguments, "--node", self.socket, "--key", key, "--reason", "test")

    def envelope(self, name: str, envelope: IceEnvelope) -> Path:
        file = self.file(name)
        file.write_text(envelope.to_text())
        return file


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for a socket."""
    made = Path(mkdtemp(prefix="mesh"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def world(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    made = World(tmp_path, folder / "node.socket", capsys)
    yield made
    made.end()
    assert made.process.returncode == 0


@cache
def schema() -> dict[str, Any]:
    found = json.loads((ROOT / "docs" / "cli.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(found)
    return cast("dict[str, Any]", found)


def checked(arguments: tuple[object, ...], code: int, out: str) -> dict[str, Any]:
    """Hold what a command printed to the schema."""
    found = json.loads(out)
    assert out.count("\n") == 1
    words = " ".join(map(str, arguments[:2]))
    name = next(each for each in (words, str(arguments[0])) if each in schema()["$defs"])
    chosen = "failure" if "error" in found else name
    Draft202012Validator({**schema(), "$ref": f"#/$defs/{chosen}"}).validate(found)
    assert found["ok"] is (code == ExitCode.OK)
    return cast("dict[str, Any]", found)


def signed(envelope: IceEnvelope, *keys: OperatorKey) -> IceEnvelope:
    return envelope.with_signatures([key.sign(envelope) for key in keys])


def made(action: IceAction = FREEZE, *, cluster: str = CLUSTER, blast: BlastRadius = BLAST, **more: Any) -> IceEnvelope:
    return IceEnvelope(action=action, blast_radius=blast, cluster_id=cluster.encode(), reason="test", **more)


# ---------------------------------------------------------------- the whole flow


def run(*arguments: object, folder: Path, code: ExitCode = ExitCode.OK) -> str:
    """Run a command as a process in a folder."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL, timeout=50, check=False
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (code, 0), done.stderr
    return done.stdout


def test_a_freeze_from_a_shell(tmp_path: Path, folder: Path) -> None:
    """Two keys, a node, a proposal, two signatures in two processes without a node, and the freeze is in effect."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    keys = [
        json.loads(run("key", "new", "alice.key", "--no-passphrase", "--json", folder=tmp_path)),
        json.loads(run("key", "new", "bob.key", "--passphrase-file", secret, "--json", folder=tmp_path)),
    ]
    at = folder / "node.socket"
    program = [sys.executable, str(ROOT / "tests" / "operated_node.py"), str(at), CLUSTER]
    program += [key["public_key"] for key in keys]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
        propose = ("ice", "propose", "--node", at, "freeze-cluster", "--ttl", "5m", "--reason", "incident 42")
        assert "BREAK GLASS freeze cluster for 300 s" in run(*propose, "--out", "freeze.env", folder=tmp_path)

        away = tmp_path / "away"
        away.mkdir()
        for name in ("freeze.env", "bob.key"):
            shutil.copy(tmp_path / name, away)
        run("ice", "sign", "freeze.env", "--key", "alice.key", "--yes", folder=tmp_path)
        shown = run("ice", "sign", "freeze.env", "--key", "bob.key", "--passphrase-file", secret, "--yes", folder=away)
        assert "incident 42" in shown
        run("ice", "submit", "freeze.env", "--node", at, folder=tmp_path, code=ExitCode.POLICY)
        both = ("ice", "submit", "freeze.env", away / "freeze.env", "--node", at)
        receipt = json.loads(run(*both, "--json", folder=tmp_path))
        assert receipt["operator_ids"] == sorted(key["operator_id"] for key in keys)

        status = json.loads(run("status", "--node", at, "--json", folder=tmp_path))
        assert status["freeze_until"] is not None
        assert [cooldown["bucket"] for cooldown in status["cooldowns"]] == ["cluster:freeze"]
        run(*both, folder=tmp_path, code=ExitCode.REJECTED)
        cordon = ("admin", "cordon", "7", "--node", at, "--key", "alice.key", "--reason", "disk")
        run(*cordon, folder=tmp_path, code=ExitCode.REJECTED)
        node.communicate(timeout=PATIENCE)
    assert node.returncode == 0
    assert not at.exists()
    run("status", "--node", at, folder=tmp_path, code=ExitCode.UNREACHABLE)


# ---------------------------------------------------------------- every exit code

ENDS: dict[ExitCode, Callable[[World], ExitCode]] = {}


def ends(code: ExitCode) -> Callable[[Callable[[World], ExitCode]], Callable[[World], ExitCode]]:
    def keep(scene: Callable[[World], ExitCode]) -> Callable[[World], ExitCode]:
        ENDS[code] = scene
        return scene

    return keep


@ends(ExitCode.OK)
def _(world: World) -> ExitCode:
    return world("status", "--node", world.socket)


@ends(ExitCode.FAILED)
def _(world: World) -> ExitCode:
    from meshos import CausalEvent, DaemonRuntime, Identity, Mesh
    from test_cli import OTHER, Shout

    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("shout", Shout)
        runtime.start()
        shout = runtime.spawn("shout", Identity.generate())
        runtime.deliver(shout.origin_hash, CausalEvent.external(7, 1, b"x"))
        runtime.export_chain(shout.origin_hash, world.file("chain"))
        right = shout.entity_id.hex()
    world.json("verify", world.file("chain"), "--entity", right)
    return world("verify", world.file("chain"), "--entity", OTHER.hex())


@ends(ExitCode.USAGE)
def _(world: World) -> ExitCode:
    return world("ice", "propose", "freeze-cluster", "--ttl", "5", "--node", world.socket)


@ends(ExitCode.UNREADABLE)
def _(world: World) -> ExitCode:
    return world("ice", "show", world.file("alice.key"))


@ends(ExitCode.SIMULATE)
def _(world: World) -> ExitCode:
    file = world.sign(world.propose(), "alice", "bob")
    world.tell("peer 9")
    code = world.submit(file)
    assert "PreviewStale" in world.err
    return code


@ends(ExitCode.POLICY)
def _(world: World) -> ExitCode:
    return world.submit(world.sign(world.propose(), "alice"))


@ends(ExitCode.UNREACHABLE)
def _(world: World) -> ExitCode:
    world.tell("end")
    return world("status", "--node", world.file("nowhere"))


@ends(ExitCode.TIMEOUT)
def _(world: World) -> ExitCode:
    """A node that never answers."""
    file = world.sign(world.propose(), "alice", "bob")
    at = world.socket.with_name("silent")
    with closing(socket.socket(socket.AF_UNIX)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshos._node_client.ANSWER_TIMEOUT", timedelta(milliseconds=20))
        listener.bind(str(at))
        listener.listen()
        return world("ice", "submit", "--node", at, file, "--timeout", "20ms")


@ends(ExitCode.DECLINED)
def _(world: World) -> ExitCode:
    file = world.propose()
    before = file.read_bytes()
    code = world("ice", "sign", file, "--key", world.file("alice.key"))
    assert file.read_bytes() == before
    return code


@ends(ExitCode.SIGNATURE)
def _(world: World) -> ExitCode:
    envelope = IceEnvelope.from_text(world.propose().read_text())
    good = ALICE.sign(envelope)
    forged = OperatorSignature(bytes(BOB.verify_key), good.signature)
    file = world.envelope("forged.env", envelope.with_signatures([good, forged]))
    assert world("ice", "show", file) is ExitCode.SIGNATURE
    assert f"NOT SIGNED  by 0x{BOB.operator_id:016x}" in world.out
    return world.submit(file)


@ends(ExitCode.REJECTED)
def _(world: World) -> ExitCode:
    file = world.sign(world.propose(), "alice", "bob")
    assert world.submit(file) is ExitCode.OK
    code = world.submit(file)
    assert "Replayed" in world.err
    return code


@ends(ExitCode.INTERRUPTED)
def _(world: World) -> ExitCode:
    """Ctrl-C in the wait for a node that never answers."""
    file = world.sign(world.propose(), "alice", "bob")
    at = world.socket.with_name("silent")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(at))
        listener.listen()
        command = [*COMMAND, "ice", "submit", "--node", str(at), str(file), "--timeout", "1m"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            stream, _ = listener.accept()
            with stream:
                assert stream.recv(1) != b""
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=PATIENCE)
    assert (out, err) == (
        "",
        "meshos: the command was sent, and may still take effect\nmeshos: interrupted\n",
    )
    return ExitCode(process.returncode)


@ends(ExitCode.CLOSED)
def _(world: World) -> ExitCode:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "status", "--node", str(world.socket)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=50, check=False)
    os.close(writer)
    assert done.stderr == ""
    return ExitCode(done.returncode)


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_every_exit_code_is_reached(code: ExitCode, world: World) -> None:
    assert ENDS[code](world) is code
    assert "Traceback" not in world.err


def test_no_kind_of_an_error_has_two_codes_and_every_refusal_has_one() -> None:
    from meshos import errors
    from meshos._cli.exits import code_of

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+) \| `([A-Z]+)`, (\d+) \|$", page, re.MULTILINE)
    documented = {kind: int(number) for kinds, _, number in rows for kind in re.findall(r"`(\w+)`", kinds)}
    refusals = {
        kind
        for cls in errors.VerifyError.__subclasses__()
        for kind in re.findall(r'"(\w+)"', str(cls.kind.fget.__annotations__["return"]))  # type: ignore[attr-defined]
    }

    assert len(rows) == 9
    assert refusals <= documented.keys()
    assert {kind: int(code_of(kind)) for kind in documented if kind not in ("declined", "no_terminal")} == {
        kind: code for kind, code in documented.items() if kind not in ("declined", "no_terminal")
    }


# ---------------------------------------------------------------- what a node refuses


def test_who_is_unknown_or_may_not_is_refused(world: World) -> None:
    file = world.sign(world.propose(), "alice", "eve")
    assert world.submit(file) is ExitCode.POLICY
    found = world.submit_json(world.sign(world.propose("2.env"), "carol", "bob"))
    assert (found["error"], found["kind"]) == ("RoleDenied", "role_denied")
    assert found["audit_seq"] == 2
    assert world.admin("cordon", "7", by="eve") is ExitCode.POLICY
    assert "NotAuthorized" in world.err


def test_what_is_of_another_cluster_is_refused(world: World) -> None:
    file = world.envelope("other.env", signed(made(cluster="elsewhere"), ALICE, BOB))
    assert world.submit(file) is ExitCode.REJECTED
    assert "WrongCluster" in world.err
    assert world.admin("cordon", "7", "--cluster", "elsewhere") is ExitCode.REJECTED
    assert world.admin("cordon", "7", "--cluster", CLUSTER) is ExitCode.OK


def test_what_is_too_old_is_refused_and_shown_so(world: World) -> None:
    issued = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    old = made(issued_at=issued, not_after=issued + timedelta(minutes=1))
    file = world.envelope("old.env", signed(old, ALICE, BOB))
    assert world("ice", "show", file) is ExitCode.OK
    assert "EXPIRED" in world.out
    assert world.submit_json(file)["kind"] == "envelope_expired"


def test_what_nobody_looked_at_is_refused(world: World) -> None:
    empty = BlastRadius(
        affected_nodes=(),
        affected_replicas=(),
        affected_daemons=(),
        estimated_drain_delay=None,
        placement_churn_basis_points=0,
        warnings=(),
    )
    file = world.envelope("blind.env", signed(made(blast=empty), ALICE, BOB))
    assert world.submit(file) is ExitCode.SIMULATE


def test_an_altered_envelope_is_unreadable_wherever_it_was_altered(world: World) -> None:
    envelope = signed(made(), ALICE)
    good, file = envelope.to_bytes(), world.file("altered.env")
    codes = set()
    for offset in range(0, len(good), 3):
        data = bytearray(good)
        data[offset] ^= 1
        file.write_bytes(data)
        codes.add(world("ice", "show", file))
    for size in range(0, len(good), 7):
        file.write_bytes(good[:size])
        codes.add(world("ice", "show", file))
    assert codes == {ExitCode.UNREADABLE}


def test_a_signature_of_another_envelope_is_invalid(world: World) -> None:
    envelope = IceEnvelope.from_text(world.propose().read_text())
    other = ALICE.sign(made())
    file = world.envelope("moved.env", envelope.with_signatures([other, BOB.sign(envelope)]))
    assert world.submit_json(file)["kind"] == "signature_invalid"


def test_files_of_different_envelopes_are_not_put_together(world: World) -> None:
    files = [world.sign(world.propose(f"{number}.env"), "alice") for number in range(2)]
    assert world.submit(*files) is ExitCode.USAGE
    assert f"{files[1]}: is of another envelope than {files[0]}" in world.err
    assert world.json("status", "--node", world.socket)["audit_head_seq"] == 0


def test_a_node_that_ends_before_it_answers_is_said_so(world: World) -> None:
    file = world.sign(world.propose(), "alice", "bob")
    at = world.socket.with_name("ends")

    def hang_up(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            stream.recv(1)

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(at))
        listener.listen()
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        found = world.json("ice", "submit", "--node", at, file)
        thread.join(PATIENCE)
    assert (found["error"], found["kind"]) == ("LoopClosed", "closed")
    world.tell("end")
    assert world.submit(file) is ExitCode.UNREACHABLE


def test_a_node_that_proposes_something_else_is_not_believed(world: World) -> None:
    at = world.socket.with_name("liar")
    answer = json.dumps({"ok": {"envelope": made(FreezeCluster(timedelta(hours=24))).to_text()}}).encode()

    def lie(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            stream.recv(65536)
            stream.sendall(len(answer).to_bytes(4, "little") + answer)

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(at))
        listener.listen()
        thread = threading.Thread(target=lie, args=(listener,))
        thread.start()
        out = world.file("lie.env")
        code = world("ice", "propose", "freeze-cluster", "--ttl", "5m", "--node", at, "--reason", "test", "--out", out)
        thread.join(PATIENCE)
    assert code is ExitCode.UNREACHABLE
    assert not out.exists()


# ---------------------------------------------------------------- ordinary commands


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        (("enter-maintenance", "7"), {"kind": "enter_maintenance", "drain_for_ms": None}),
        (
            ("enter-maintenance", "7", "--drain-for", "1m30s"),
            {"kind": "enter_maintenance", "drain_for_ms": 90_000},
        ),
        (("exit-maintenance", "7"), {"kind": "exit_maintenance"}),
        (("drain", "0x7", "--drain-for", "500ms"), {"kind": "drain", "drain_for_ms": 500}),
        (("cordon", "7"), {"kind": "cordon"}),
        (("uncordon", "7"), {"kind": "uncordon"}),
        (("restart-all-daemons", "7"), {"kind": "restart_all_daemons"}),
        (("clear-avoid-list", "7"), {"kind": "clear_avoid_list"}),
        (
            ("drop-replicas", "7", "--chain", "0xff", "--chain", "2"),
            {"kind": "drop_replicas", "chains": ["0x00000000000000ff", "0x0000000000000002"]},
        ),
        (("invalidate-placement", "7"), {"kind": "invalidate_placement"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_ordinary_commands(arguments: tuple[str, ...], event: dict[str, object], world: World) -> None:
    from meshos._node_client import NodeClient

    assert world.admin(*arguments, by="carol") is ExitCode.OK
    assert f"accepted: {event['kind']}" in world.out
    with NodeClient(world.socket) as client:
        (record,) = cast("list[dict[str, Any]]", client.ask("audit")["records"])
    assert record["event"] == {**event, "node": "0x0000000000000007"}
    assert (record["reason"], record["operator_ids"]) == ("test", [f"0x{CAROL.operator_id:016x}"])
    Draft202012Validator({**schema(), "$ref": "#/$defs/event"}).validate(record["event"])


def test_the_newest_commands_of_a_node(world: World) -> None:
    for node in (1, 2, 3):
        assert world.admin("cordon", node) is ExitCode.OK
    assert world.admin("uncordon", 2, by="carol") is ExitCode.OK
    assert world.admin("uncordon", 3, by="bob") is ExitCode.OK
    assert world.admin("cordon", 4, by="eve") is ExitCode.POLICY

    def numbers(*conditions: object) -> list[int]:
        records = world.json("audit", "tail", "--node", world.socket, *conditions)["records"]
        return [record["seq"] for record in records]

    assert numbers() == [1, 2, 3, 4, 5, 6]
    assert numbers("--since", 4) == [5, 6]
    assert numbers("--operator", CAROL.operator_id) == [4]
    assert numbers("--operator", f"{BOB.operator_id:#x}", "--kind", "cordon") == []
    assert numbers("--verdict", "rejected") == [6]
    assert numbers("--kind", "uncordon", "--since", 4) == [5]
    assert world("audit", "tail", "--node", world.socket, "--since", "5") is ExitCode.OK
    assert world.out.startswith("6  ")
    assert "rejected (not_authorized)  cordon node=0x0000000000000004  by nobody: test" in world.out


def test_a_replay_of_the_audit_tells_what_the_node_has(world: World) -> None:
    assert world.json("audit", "replay", world.audit)["records"] == 0
    assert world.admin("cordon", 1) is ExitCode.OK
    assert world.admin("enter-maintenance", 1, "--drain-for", "1h") is ExitCode.OK
    at = world.json("audit", "tail", "--node", world.socket)["records"][-1]["committed_at"]
    before = world.json("audit", "replay", world.audit)
    assert before["cordoned"] == ["0x0000000000000001"]
    assert [each["node"] for each in before["maintenance"]] == ["0x0000000000000001"]
    assert world.submit(world.sign(world.propose("1.env"), "alice", "bob")) is ExitCode.OK
    evict = world.propose("2.env", "force-evict-replica", "0xff", "2")
    assert world.submit(world.sign(evict, "alice", "bob")) is ExitCode.OK
    assert world.admin("uncordon", 1) is ExitCode.REJECTED

    # What was refused is answered before its record is in the file.
    eventually(lambda: world.json("audit", "verify", world.audit).get("records") == 5)
    shown = world.json("status", "--node", world.socket)
    found = world.json("audit", "replay", world.audit, "--digest", shown["control_digest"])
    assert (found["accepted"], found["rejected"], found["runs"]) == (4, 1, 1)
    assert found["freeze_until"] == shown["freeze_until"]
    assert [(each["order"], each["chain"]) for each in found["forced"]] == [("evict", "0x00000000000000ff")]
    assert world("audit", "replay", world.audit) is ExitCode.OK
    assert f"digest       {shown['control_digest']}" in world.out
    assert "frozen       until " in world.out
    assert world.json("audit", "replay", world.audit, "--at", at)["freeze_until"] is None
    assert world("audit", "replay", world.audit, "--at", at, "--digest", shown["control_digest"]) is ExitCode.FAILED
    assert "FAILED: another digest comes out" in world.out
    assert world.json("audit", "verify", world.audit)["records"] == 5
    rejected = world.json("audit", "show", world.audit, "--verdict", "rejected")["records"]
    assert [record["rejected_kind"] for record in rejected] == ["freeze_in_effect"]


# ---------------------------------------------------------------- keys


def test_a_key_is_private_and_never_replaced_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new.key"
    before = os.umask(0)
    try:
        assert cli.main(["key", "new", str(file), "--no-passphrase"]) == ExitCode.OK
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.read_bytes()
    assert bytes(OperatorKey.load(file).verify_key).hex() in capsys.readouterr().out

    assert cli.main(["key", "new", str(file), "--no-passphrase"]) == ExitCode.UNREADABLE
    assert file.read_bytes() == first
    assert cli.main(["key", "new", str(file), "--no-passphrase", "--force"]) == ExitCode.OK
    assert file.read_bytes() != first
    assert file.stat().st_mode & 0o777 == 0o600
    OperatorKey.load(file)


def test_force_replaces_only_its_own_kind(world: World) -> None:
    envelope, key, text = world.propose(), world.file("alice.key"), world.file("notes.txt")
    text.write_text("precious")
    before = [file.read_bytes() for file in (envelope, key, text)]
    propose = ("ice", "propose", "thaw-cluster", "--node", world.socket, "--reason", "test", "--force", "--out")
    for file in (envelope, text):
        file.chmod(0o600)
        assert world("key", "new", file, "--no-passphrase", "--force") is ExitCode.UNREADABLE
    for file in (key, text):
        assert world(*propose, file) is ExitCode.UNREADABLE
        assert world("ice", "sign", envelope, "--key", key, "--yes", "--out", file, "--force") is ExitCode.UNREADABLE
    assert [file.read_bytes() for file in (envelope, key, text)] == before
    assert world(*propose, envelope) is ExitCode.OK
    assert {entry.suffix for entry in world.folder.iterdir()} == {".key", ".env", ".txt", ".chain"}


def test_what_cannot_be_looked_at_is_not_taken_for_absent(world: World) -> None:
    key, envelope = world.file("alice.key"), world.propose()
    nowhere = key / "x"
    assert world("key", "new", nowhere, "--no-passphrase", "--force") is ExitCode.UNREADABLE
    sign = ("ice", "sign", envelope, "--key", key, "--yes", "--out", nowhere, "--force")
    assert world(*sign) is ExitCode.UNREADABLE
    assert str(nowhere) in world.err


@pytest.mark.parametrize("what", ["open", "nonsense", "cut", "missing", "folder"])
def test_a_bad_key_file_shows_nothing_of_what_is_in_it(what: str, world: World) -> None:
    secret = bytes([1]) * 32
    file = world.file("bad.key")
    good = world.file("alice.key").read_bytes()
    match what:
        case "open":
            file.write_bytes(good)
            file.chmod(0o644)
        case "nonsense":
            file.write_bytes(b"seed " + secret.hex().encode())
            file.chmod(0o600)
        case "cut":
            file.write_bytes(good[:-1])
            file.chmod(0o600)
        case "folder":
            file.mkdir()
        case _:
            pass
    envelope = world.propose()
    for command in (
        ("key", "show", file),
        ("ice", "sign", envelope, "--key", file, "--yes"),
        ("admin", "cordon", "7", "--node", world.socket, "--key", file, "--reason", "x"),
    ):
        assert world(*command) is ExitCode.UNREADABLE
        assert secret.hex() not in world.out + world.err
        assert str(secret) not in world.out + world.err
        assert "BREAK GLASS" not in world.out
        assert world.json(*command)["error"] == "KeyFileError"


def test_a_passphrase_opens_its_key_and_another_does_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2id, "OPSLIMIT_MODERATE", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", argon2id.MEMLIMIT_MIN)
    right, wrong, open_, empty = (world.file(name) for name in ("right", "wrong", "open", "empty"))
    texts = ("correct horse\r\nmore\n", "battery\n", "correct horse", "\n")
    for file, text in zip((right, wrong, open_, empty), texts, strict=True):
        file.write_text(text, newline="")
        file.chmod(0o644 if file is open_ else 0o600)
    key = world.file("sealed.key")
    assert world("key", "new", key, "--passphrase-file", right) is ExitCode.OK
    assert world.json("key", "show", key)["sealed"] is True
    envelope = world.propose()
    sign = ("ice", "sign", envelope, "--key", key, "--yes", "--passphrase-file")
    for file, kind in ((wrong, "passphrase"), (open_, "not_private"), (empty, "passphrase")):
        assert world.json(*sign, file)["kind"] == kind
        assert "horse" not in world.out + world.err
    assert world(*sign, right) is ExitCode.OK
    assert world("key", "new", world.file("2.key"), "--passphrase-file", world.file("none")) is ExitCode.UNREADABLE


# ---------------------------------------------------------------- asking


needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

AT_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "meshos", *sys.argv[1:]])
"""


def at_a_terminal(arguments: tuple[object, ...], lines: list[tuple[str, str]]) -> tuple[int, str, str, str]:
    """Run a command whose terminal is one of ours; for each prompt, type the line. Returns what each end saw."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stderr is not None
        seen = {"stderr": b"", "terminal": b""}
        for prompt, line in lines:
            where = "terminal" if "passphrase" in prompt or "again" in prompt else "stderr"
            handle = ours if where == "terminal" else process.stderr.fileno()
            begin = len(seen[where])
            while prompt.encode() not in seen[where][begin:]:
                piece = os.read(handle, 4096)
                assert piece, seen
                seen[where] += piece
            os.write(ours, f"{line}\n".encode())
        out, err = process.communicate(timeout=PATIENCE)
    os.close(ours)
    return process.returncode, out.decode(), (seen["stderr"] + err).decode(), seen["terminal"].decode()


@needs_terminals
@pytest.mark.parametrize("yes", [[], ["--yes"]])
@pytest.mark.parametrize(("typed", "code"), [("cluster", 0), ("yes", 8), ("y", 8), ("", 8), ("Cluster", 8)])
def test_at_a_terminal_it_always_asks(typed: str, code: int, yes: list[str], tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice.key")
    file = tmp_path / "freeze.env"
    file.write_text(made().to_text())
    arguments = ("ice", "sign", file, "--key", tmp_path / "alice.key", *yes)

    ended, out, err, _ = at_a_terminal(arguments, [("Type cluster to sign this as operator", typed)])

    assert ended == code
    assert "BREAK GLASS freeze cluster for 300 s" in out
    assert "Type" not in out
    assert ("not confirmed" in err) is (code != 0)
    assert len(IceEnvelope.from_text(file.read_text()).signatures) == (code == 0)


@needs_terminals
def test_ctrl_c_at_the_question_signs_nothing(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice.key")
    file = tmp_path / "freeze.env"
    file.write_text(made().to_text())
    arguments = ("ice", "sign", file, "--key", tmp_path / "alice.key")
    ended, _, err, _ = at_a_terminal(arguments, [("Type cluster", "clu\x03")])
    assert ended == ExitCode.INTERRUPTED
    assert err.endswith("meshos: interrupted\n")
    assert not IceEnvelope.from_text(file.read_text()).signatures


@needs_terminals
def test_passphrases_are_typed_and_not_shown(tmp_path: Path) -> None:
    key, file = tmp_path / "sealed.key", tmp_path / "freeze.env"
    file.write_text(made().to_text())
    ended, _, err, shown = at_a_terminal(
        ("key", "new", key), [("new passphrase: ", "correct horse"), ("the same again: ", "correct horse")]
    )
    assert (ended, err) == (0, "")
    assert "horse" not in shown
    ended, out, _, shown = at_a_terminal(
        ("ice", "sign", file, "--key", key, "--yes"),
        [("passphrase of sealed.key: ", "correct horse"), ("Type cluster", "cluster")],
    )
    assert ended == 0
    assert "horse" not in shown + out
    ended, _, err, _ = at_a_terminal(
        ("key", "new", tmp_path / "2.key"), [("new passphrase: ", "one"), ("the same again: ", "two")]
    )
    assert (ended, err) == (8, "meshos: the two passphrases differ\n")
    assert not (tmp_path / "2.key").exists()


def test_without_a_terminal_nobody_is_asked_for_a_passphrase(tmp_path: Path) -> None:
    command = [*COMMAND, "key", "new", str(tmp_path / "x.key")]
    done = subprocess.run(
        command, input="correct horse\n" * 2, capture_output=True, text=True, start_new_session=True, check=False
    )
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr == ("meshos: there is no terminal to ask for the passphrase on: give --passphrase-file\n")


@pytest.mark.parametrize(
    ("action", "word"),
    [
        (FREEZE, "cluster"),
        (ForceRestartDaemon(DaemonRef(7, "ingest")), "ingest"),
        (ForceRestartDaemon(DaemonRef(7, "")), "7"),
        (ForceRestartDaemon(DaemonRef(7, "\x1b[2Jin\u202egest")), "\\x1b[2Jin\\u202egest"),
    ],
)
def test_what_is_typed_names_the_target(action: IceAction, word: str) -> None:
    from meshos._cli.preview import target

    assert target(action)[0] == word


def test_a_confirmation_may_write_an_id_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    from meshos._cli.preview import target

    names = target(ForceRestartDaemon(DaemonRef(255)))
    for typed in ("255", "0xff", "0x00000000000000ff", " 255 "):
        monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))
        terminal.confirm(names, "sign", yes=False)
    for typed in ("", "25", "0xFE"):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        with pytest.raises(output.Failure):
            terminal.confirm(names, "sign", yes=True)


# ---------------------------------------------------------------- what is shown


def test_foreign_text_reaches_no_terminal_as_it_came(world: World) -> None:
    evil = "\x1b[2J\r\u202e\u2028\x07 ok\n\\"
    action = ForceRestartDaemon(DaemonRef(7, evil))
    blast = BlastRadius(
        affected_nodes=(1,),
        affected_replicas=(),
        affected_daemons=(DaemonRef(7, evil),),
        estimated_drain_delay=None,
        placement_churn_basis_points=12_345,
        warnings=(BlastWarning("forced_restart_bypasses_backoff", (7,)),),
    )
    envelope = IceEnvelope(action=action, blast_radius=blast, cluster_id=b"x", reason=evil)
    file = world.envelope("evil.env", signed(envelope, ALICE))
    assert world("ice", "show", file) is ExitCode.OK
    assert world.out.replace("\n", "").isprintable()
    assert world.out.count("\\x1b[2J\\r\\u202e\\u2028\\x07 ok\\n\\") == 3
    assert "123.45 %" in world.out
    assert "WARNING     forced restart bypasses backoff: 0x0000000000000007" in world.out
    assert world.json("ice", "show", file)["reason"] == evil
    assert world.out.replace("\n", "").isascii()

    assert world("ice", "show", world.file(evil)) is ExitCode.UNREADABLE
    assert world.err.replace("\n", "").isprintable()


def test_every_command_prints_what_the_schema_says(world: World) -> None:
    socket_, alice, bob = world.socket, world.file("alice.key"), world.file("bob.key")
    file, other = world.file("1.env"), world.file("2.env")
    world.json("status", "--node", socket_)
    world.json("key", "new", world.file("new.key"), "--no-passphrase")
    world.json("key", "show", alice)
    actions: list[tuple[object, ...]] = [
        ("thaw-cluster",),
        ("flush-avoid-lists", "--scope", "global"),
        ("flush-avoid-lists", "--scope", "local:7"),
        ("flush-avoid-lists", "--scope", "on-peer:0x7"),
        ("force-evict-replica", "0xff", "1"),
        ("force-restart-daemon", "7", "--name", "seven"),
        ("force-restart-daemon", "7"),
        ("force-cutover", "0xff", "1"),
        ("kill-migration", "7"),
        ("freeze-cluster", "--ttl", "5m"),
    ]
    for action in actions:
        found = world.json(
            "ice", "propose", "--node", socket_, *action, "--reason", "x", "--out", file, "--force", "--valid-for", "4m"
        )
        assert found["action"]["kind"] == str(action[0]).replace("-", "_")
        assert (found["missing"], found["signatures"]) == (2, [])
    found = world.json("ice", "sign", file, "--key", alice, "--yes", "--out", other)
    assert "BREAK GLASS" in world.err
    assert (found["missing"], found["file"]) == (1, str(other))
    world.json("ice", "sign", file, "--key", bob, "--yes")
    assert world.json("ice", "show", other)["signatures"] == [
        {"operator_id": f"0x{ALICE.operator_id:016x}", "fits": True}
    ]
    key = ("--key", alice, "--reason", "x", "--node", socket_)
    assert world.json("admin", "cordon", "1", *key)["ok"] is True
    assert world.json("ice", "submit", "--node", socket_, file, other)["ok"] is True
    assert world.json("admin", "cordon", "7", *key)["kind"] == "freeze_in_effect"
    assert world.json("status", "--node", socket_)["cooldowns"]


def test_signatures_that_come_at_once_are_all_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.envelope("freeze.env", made())
    link = world.file("link.env")
    link.symlink_to(file)
    file.chmod(0o600)

    def meanwhile(*_: object, **__: object) -> None:
        file.write_text(signed(IceEnvelope.from_text(file.read_text()), BOB).to_text())

    monkeypatch.setattr(terminal, "confirm", meanwhile)
    assert world("ice", "sign", link, "--key", world.file("alice.key")) is ExitCode.OK
    assert len(IceEnvelope.from_text(file.read_text()).signatures) == 2
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o600)

    monkeypatch.setattr(terminal, "confirm", lambda *_, **__: file.write_text(made().to_text()))
    assert world("ice", "sign", file, "--key", world.file("alice.key")) is ExitCode.UNREADABLE
    assert not IceEnvelope.from_text(file.read_text()).signatures


def test_an_envelope_keeps_its_form(world: World) -> None:
    envelope = made()
    file = world.file("bytes.env")
    file.write_bytes(envelope.to_bytes())
    world.sign(file, "alice", "bob", "alice")
    assert file.read_bytes() == signed(envelope, ALICE, BOB).to_bytes()
    assert IceEnvelope.from_bytes(file.read_bytes()).to_text() == signed(envelope, ALICE, BOB).to_text()


def test_an_ordinary_command_is_no_break_glass_action(world: World) -> None:
    from meshos.events import Cordon

    file = world.file("admin.env")
    file.write_text(AdminEnvelope(event=Cordon(7), cluster_id=b"x", reason="x").to_text())
    assert world("ice", "show", file) is ExitCode.UNREADABLE


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("0x0f", 15),
        ("0XFF", 255),
        ("18446744073709551615", 2**64 - 1),
        ("0xffffffffffffffff", 2**64 - 1),
    ],
)
def test_an_id_is_decimal_or_hexadecimal(text: str, number: int) -> None:
    assert values.identifier(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1_0",
        "ff",
        "0xg",
        "\u0667",
        "1.0",
        "18446744073709551616",
        "0x1" + "0" * 16,
        "9" * 5000,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        values.identifier(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0s", 0), ("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("1h1m1s1ms", 3_661_001), ("2m", 120_000)],
)
def test_a_span_has_units(text: str, milliseconds: int) -> None:
    assert values.span(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "s", "1m1h", "1s1s", "1.5s", "1d", "\u0665s", "9" * 10 + "s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        values.span(text)


@pytest.mark.parametrize("text", ["0s", "999ms", "24h1ms", "25h", "5"])
def test_a_freeze_is_neither_too_short_nor_too_long(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        values.ttl(text)


@pytest.mark.parametrize("text", ["", "globals", "global:1", "local", "local:", "local:x", "on_peer:7", "on-peer:-7"])
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        values.scope(text)


@pytest.mark.parametrize("text", ["", "x" * 1025, "\udc80", "\N{SNOWMAN}" * 342])
def test_what_is_no_reason_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        values.reason(text)


# ---------------------------------------------------------------- the page


def test_docs_name_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    seen = []
    waiting: list[list[str]] = [[]]
    while waiting:
        command = waiting.pop()
        assert cli.main([*command, "--help"]) == ExitCode.OK
        text = capsys.readouterr().out
        for option in re.findall(r"--[a-z][a-z-]*", text):
            assert option in page or option in ("--help", "--version"), option
        names = re.findall(r"^    ([a-z][a-z-]*)(?= |$)", text, re.MULTILINE)
        waiting += [[*command, name] for name in names]
        seen += [" ".join([*command, name]) for name in names]
    for command_ in seen:
        *_, last = command_.split()
        assert re.search(rf"`(meshos )?([a-z]+ )?{last}\b", page), command_
    assert {"ice sign", "admin drain", "ice propose thaw-cluster", "key new", "status"} <= set(seen)
