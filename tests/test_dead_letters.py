"""Posted events that fail: tried again, passed over, kept as dead letters, tried once more or discarded."""

import asyncio
import json
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from jsonschema import Draft202012Validator

from daemons import eventually
from meshos import store as stores
from meshos.chain import CausalEvent
from meshos.cli import main
from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHostConfig, DaemonLifecycleEvent, DaemonLifecycleObserver, MeshDaemon
from meshos.errors import DaemonNotFound, DeliveryUnknown, InvalidArgument, ProcessFailed, StoreError
from meshos.events import Crashed, PassedOver
from meshos.identity import Identity
from meshos.mesh import Mesh
from meshos.store import DeadLetter, Store

PATIENCE = 20.0
TWICE = DaemonHostConfig(attempts_max=2)
KEPT = DaemonHostConfig(attempts_max=2, durability="journal")


class Picky(MeshDaemon):
    """Adds up numbers; refuses what is none, unless it was told not to."""

    name = "picky"
    lenient = False

    def __init__(self) -> None:
        self.total = 0
        self.seen: list[bytes] = []

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.seen.append(event.payload)
        if self.lenient and not event.payload.isdigit():
            return [b"skipped"]
        self.total += int(event.payload)
        return [b"%d" % self.total]

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, state: bytes, /) -> None:
        self.total = int(state)


class Witness(DaemonLifecycleObserver):
    def __init__(self) -> None:
        self.passed: list[PassedOver] = []
        self.crashes = 0
        self.told = Event()

    def observe(self, event: DaemonLifecycleEvent) -> None:
        if isinstance(event.signal, Crashed):
            self.crashes += 1
        if isinstance(event.signal, PassedOver):
            self.passed.append(event.signal)
            self.told.set()


def runtime(store: Store | None = None) -> DaemonRuntime:
    made = DaemonRuntime(Mesh.local() if store is None else Mesh.local(store=store))
    made.register_factory("picky", Picky)
    made.start()
    return made


def letters(node: DaemonRuntime, origin: int, count: int = 1) -> tuple[DeadLetter, ...]:
    """Send what waits for the posted events, and return the dead letters."""
    node.send(origin, b"0", timeout=timedelta(seconds=PATIENCE))
    found = node.dead_letters(origin)
    assert len(found) == count
    return found


def test_a_posted_event_takes_effect() -> None:
    with runtime() as node:
        origin = node.spawn("picky", Identity.generate()).origin_hash
        first, second = node.post(origin, b"1"), node.post(origin, bytearray(b"20"))
        receipt = node.send(origin, b"300")

        assert (second, receipt.event_sequence) == (first + 1, first + 2)
        assert node.with_daemon(origin, Picky, lambda daemon: daemon.total) == 321
        assert node.dead_letters(origin) == ()


def test_a_posted_event_is_tried_and_then_passed_over() -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    witness = Witness()
    with runtime() as node:
        node.daemon_registry().add_observer(witness)
        handle = node.spawn("picky", Identity.generate(), DaemonHostConfig(attempts_max=3))
        sequence = node.post(handle.origin_hash, b"poison")
        node.post(handle.origin_hash, b"7")
        (letter,) = letters(node, handle.origin_hash)

        seen = node.with_daemon(handle.origin_hash, Picky, lambda daemon: list(daemon.seen))
        assert seen[:4] == [b"poison", b"poison", b"poison", b"7"]
        assert (letter.number, letter.attempts, letter.exception) == (1, 3, "ValueError")
        assert letter.message == "invalid literal for int() with base 10: b'poison'"
        assert (letter.event.payload, letter.event.sequence, letter.is_marked) == (b"poison", sequence, False)
        assert (letter.daemon.id, letter.daemon.name) == (handle.origin_hash, "picky")
        assert before < letter.at < datetime.now(UTC) + timedelta(seconds=1)
        assert (handle.stats.errors, handle.stats.dead_letters) == (3, 1)
        assert witness.told.wait(PATIENCE)
        assert witness.passed == [PassedOver(letter.event.link.origin_hash, sequence, 1, 3)]
        assert witness.crashes == 3


def test_a_letter_that_raises_again_stays() -> None:
    with runtime() as node:
        origin = node.spawn("picky", Identity.generate(), TWICE).origin_hash
        node.post(origin, b"poison")
        (letter,) = letters(node, origin)

        with pytest.raises(ProcessFailed) as raised:
            node.retry_dead_letter(letter)

        assert isinstance(raised.value.__cause__, ValueError)
        (again,) = node.dead_letters(origin)
        assert (again.number, again.attempts, again.event.payload) == (1, 3, b"poison")


def test_a_letter_that_takes_effect_goes() -> None:
    with runtime() as node:
        handle = node.spawn("picky", Identity.generate(), TWICE)
        origin = handle.origin_hash
        sequence = node.post(origin, b"poison")
        (letter,) = letters(node, origin)

        def mend(daemon: Picky) -> None:
            daemon.lenient = True

        node.with_daemon(origin, Picky, mend)
        position = handle.stats.events_emitted
        receipt = node.retry_dead_letter(letter)

        assert (receipt.event_sequence, receipt.sequence, receipt.duplicate) == (sequence, position + 1, False)
        assert node.dead_letters(origin) == ()
        assert node.send(origin, letter.event).duplicate, "its receipt is kept"
        for settle in (node.retry_dead_letter, node.discard_dead_letter):
            with pytest.raises(InvalidArgument, match="no dead letter"):
                settle(letter)


def test_a_letter_may_be_discarded() -> None:
    with runtime() as node:
        origin = node.spawn("picky", Identity.generate(), TWICE).origin_hash
        node.post(origin, b"one")
        node.post(origin, b"two")
        first, second = letters(node, origin, 2)

        node.discard_dead_letter(first)

        assert [letter.number for letter in node.dead_letters(origin)] == [second.number] == [2]
        with pytest.raises(DeliveryUnknown):
            node.send(origin, first.event)
        with pytest.raises(InvalidArgument):
            node.discard_dead_letter(second._replace(event=first.event))


def test_the_twins_do_the_same() -> None:
    async def story() -> None:
        async with runtime() as node:
            origin = node.spawn("picky", Identity.generate(), TWICE).origin_hash
            node.post(origin, b"one")
            node.post(origin, b"two")
            await node.send_async(origin, b"1")
            first, second = node.dead_letters(origin)
            with pytest.raises(ProcessFailed):
                await node.retry_dead_letter_async(first)
            await node.discard_dead_letter_async(first)
            await node.discard_dead_letter_async(second)
            assert node.dead_letters(origin) == ()

    asyncio.run(story())


class Later(MeshDaemon):
    name = "later"

    async def process(self, event: CausalEvent) -> list[bytes]:
        await asyncio.sleep(0)
        if event.payload == b"poison":
            raise KeyError("poison")
        return [event.payload]


def test_a_coroutine_that_raises_is_passed_over_too() -> None:
    with DaemonRuntime(Mesh.local()) as node:
        node.register_factory("later", Later)
        node.start()
        origin = node.spawn("later", Identity.generate(), TWICE).origin_hash
        node.post(origin, b"poison")
        node.send(origin, b"good")

        (letter,) = node.dead_letters(origin)
        assert (letter.exception, letter.attempts) == ("KeyError", 2)
        with pytest.raises(ProcessFailed):
            node.retry_dead_letter(letter)


def test_what_waits_for_a_daemon_that_is_stopped_is_counted() -> None:
    with runtime() as node:
        origin = node.spawn("picky", Identity.generate(), DaemonHostConfig(attempts_max=1000)).origin_hash
        node.post(origin, b"poison")
        node.post(origin, b"1")
        node.stop(origin)

        registry = node.daemon_registry()
        eventually(lambda: registry.lost_posts == 2)
        with pytest.raises(DaemonNotFound):
            node.post(origin, b"1")
        with pytest.raises(DaemonNotFound):
            node.dead_letters(origin)


def test_a_letter_outlives_its_process_and_may_be_tried_when_the_code_was_mended(tmp_path: Path) -> None:
    identity = Identity.generate()
    with Store.open(tmp_path / "state") as store, runtime(store) as node:
        origin = node.spawn("picky", identity, KEPT).origin_hash
        node.post(origin, b"poison")
        node.post(origin, b"5")
        (letter,) = letters(node, origin)
        assert store.stats().dead_letters == 1
        with pytest.raises(StoreError) as locked:
            stores.dead_letters(tmp_path / "state")
        assert locked.value.kind == "locked"

    assert stores.dead_letters(tmp_path / "state")[0]._replace(event=letter.event) == letter
    assert stores.inspect(tmp_path / "state").daemons[0].dead_letters == 1
    stores.retry_dead_letter(tmp_path / "state", letter)
    (marked,) = stores.dead_letters(tmp_path / "state")
    assert marked.is_marked
    stores.verify(tmp_path / "state")

    class Mended(Picky):
        lenient = True

    with Store.open(tmp_path / "state") as store, DaemonRuntime(Mesh.local(store=store)) as node:
        node.register_factory("picky", Mended)
        node.start()
        handle = node.spawn("picky", identity, resume=True)
        node.send(origin, b"1")
        eventually(lambda: not node.dead_letters(origin))
        assert b"poison" in node.with_daemon(origin, Picky, lambda daemon: list(daemon.seen))
        assert handle.stats.dead_letters == 1
    assert stores.dead_letters(tmp_path / "state") == ()
    stores.verify(tmp_path / "state")


CHILD = """
    import os, sys
    from meshos.compute import DaemonRuntime
    from meshos.daemon import DaemonHostConfig
    from meshos.identity import Identity
    from meshos.mesh import Mesh
    from meshos.store import Store
    from test_dead_letters import KEPT, Picky, letters

    node = DaemonRuntime(Mesh.local(store=Store.open(sys.argv[1])))
    node.register_factory("picky", Picky)
    node.start()
    origin = node.spawn("picky", Identity.from_seed(bytes(32)), KEPT).origin_hash
    node.post(origin, b"poison")
    letters(node, origin)
    print("passed over", flush=True)
    sys.stdin.read()
"""


def killed(folder: Path) -> None:
    """Leave a store behind as a process does that was killed after it had passed an event over."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "passed over\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stdin.close()


def test_a_letter_outlives_a_kill_and_the_command_line_settles_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    killed(folder)
    origin = Identity.from_seed(bytes(32)).origin_hash

    assert main(["letters", str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"0x{origin:016x}:1" in told
    assert "ValueError: invalid literal" in told
    assert main(["letters", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    schema = json.loads((Path(__file__).parents[1] / "docs" / "cli.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator({**schema, "$ref": "#/$defs/letters"}).validate(printed)
    (row,) = printed["letters"]
    assert (row["letter"], row["attempts"], row["payload"]) == (f"0x{origin:016x}:1", 2, b"poison".hex())

    assert main(["letters", str(folder), "--retry", f"0x{origin:016x}:1"]) == 0
    assert "tried again when" in capsys.readouterr().out
    assert stores.dead_letters(folder)[0].is_marked
    assert main(["letters", str(folder), "--discard", f"0x{origin:016x}:1"]) == 0
    capsys.readouterr()
    assert stores.dead_letters(folder) == ()
    assert main(["letters", str(folder)]) == 0
    assert capsys.readouterr().out == "no dead letters\n"
    assert main(["letters", str(folder), "--discard", f"0x{origin:016x}:1"]) != 0
    assert "no dead letter" in capsys.readouterr().err
    assert main(["letters", str(tmp_path / "nothing")]) != 0


@pytest.mark.parametrize("name", ["", "7", "x:1", "1:x", "1:-1", ":", "0x1" + "0" * 16 + ":1"])
def test_the_name_of_a_letter_is_checked(name: str, tmp_path: Path) -> None:
    assert main(["letters", str(tmp_path), "--discard", name]) == 2


@pytest.mark.parametrize("event", ["text", 7, None, [b"a"]], ids=repr)
def test_what_is_no_payload_is_a_type_error(event: object) -> None:
    with runtime() as node:
        origin = node.spawn("picky", Identity.generate()).origin_hash
        with pytest.raises(TypeError, match="event"):
            node.post(origin, event)  # type: ignore[arg-type]


def test_the_signal_is_a_record() -> None:
    told = PassedOver(7, 3, 1, 5)
    assert (told.kind, told.origin_hash, told.sequence, told.letter, told.attempts) == ("passed_over", 7, 3, 1, 5)
    assert pickle.loads(pickle.dumps(told)) == told
