"""The supervised demo: what it promises holds on the sample, and it finds what does not hold."""

import io
import os
import re
import signal
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Event

import pytest

from meshos import cli
from meshos.chain import CausalEvent
from meshos.demo.carrier import Totals
from meshos.demo.flights import HEADER, SAMPLE, rows
from meshos.demo.plain import count
from meshos.demo.senders import BATCHES_MAX, THREADS, Senders
from meshos.demo.shard import DAEMONS, POISON, EngineFailure, Shard, name_of, names, share_of, shares
from meshos.demo.supervise import run
from test_demo import row, written


@pytest.fixture(scope="module")
def told() -> str:
    """Return what one run on the sample wrote."""
    out = io.StringIO()
    assert run(SAMPLE, out, None), out.getvalue()
    return out.getvalue()


# ---------------------------------------------------------------- the story


def test_all_of_it_holds_on_the_sample(told: str) -> None:
    assert told.count("\nok: ") == 7
    assert "FAILED" not in told
    assert "ok: all totals of 200 daemons equal the straight count" in told
    assert "ok: 4,241 events took effect, each once" in told
    assert "ok: 22 crashes on purpose, 22 restarts, and every daemon runs" in told


def test_crashes_are_told_with_their_backoff(told: str) -> None:
    crashes = re.findall(r"^(\w\w-\d\d) +[\d,]+ +(- |\d+ ms) +(-|\d+ ms)$", told, re.MULTILINE)

    assert len(crashes) == 22
    assert len({name for name, _, _ in crashes}) == 20
    first = [backoff for name, backoff, _ in crashes if name == "9E-00"]
    assert len(first) == 3
    # Each wait is twice the one before, shortened by at most a fifth; a loop that came late shows none.
    waits = [int(backoff.removesuffix(" ms")) for backoff in first if backoff != "- "]
    assert all(low * 0.79 <= wait <= low for low, wait in zip((100, 200, 400)[-len(waits) :], waits, strict=True))


def test_a_daemon_that_is_down_is_explained(told: str) -> None:
    assert "explain() of 9E-00 while it was down" in told
    assert "last_crash: it crashed: process raised EngineFailure: engine failure" in told


def test_peer_drain_and_resume_are_told(told: str) -> None:
    assert re.search(r"^peer 3 got slow: degraded, 410 ms; on the avoid list \d+ ms later", told, re.MULTILINE)
    assert re.search(r"MAINTENANCE after \d+ ms, 200 daemons stopped, a send meanwhile: DaemonNotFound$", told, re.M)
    assert re.search(r"^and resumed: 200 daemons run after \d+ ms, ACTIVE after \d+ ms$", told, re.MULTILINE)
    assert re.search(r"^snapshot [\d,]+ after [\d,]+ ticks: 200 daemons run, 1 of 2 peers degraded,", told, re.M)


@pytest.mark.parametrize("lines", [[row()], [row(), row(b"AA"), row(b"ZZ", delay=b"NA")]])
def test_a_file_of_few_rows_is_no_special_case(lines: list[bytes], tmp_path: Path) -> None:
    out = io.StringIO()
    assert run(written(tmp_path / "flights.csv", HEADER, *lines), out, None), out.getvalue()


def test_state_lost_in_a_restart_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(Shard, "restore", lambda self, state: None)

    assert not run(SAMPLE, out, None)
    assert "FAILED: all totals of 200 daemons" in out.getvalue()


def test_poison_that_leaves_a_trace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out, process = io.StringIO(), Shard.process

    def tolerant(self: Shard, event: CausalEvent) -> bytes | None:
        try:
            return process(self, event)
        except EngineFailure:
            return None

    monkeypatch.setattr(Shard, "process", tolerant)
    # The restarts that it waits for in the end never come.
    monkeypatch.setattr("meshos.demo.supervise.PATIENCE", timedelta(seconds=5))

    assert not run(SAMPLE, out, None)
    text = out.getvalue()
    assert "FAILED: all totals" in text
    assert "FAILED: 4,241 events took effect" in text
    assert "FAILED: 22 crashes on purpose, 0 restarts" in text


# ---------------------------------------------------------------- the command


def test_the_command_exits_with_0_and_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["demo", "supervise"])

    out, err = capsys.readouterr()
    assert code == cli.OK
    assert out.count("\nok: ") == 7
    assert 10 <= err.count(" % ") <= 12


def test_the_command_exits_with_1_when_a_daemon_raises_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Totals, delay: int) -> None:
        raise OverflowError("too late")

    monkeypatch.setattr(Totals, "add_delay", broken)

    assert cli.main(["demo", "supervise", "--no-progress"]) == cli.FAILED
    assert capsys.readouterr().err.endswith("(OverflowError: too late)\n")


@pytest.mark.parametrize("lines", [[], [b"not,flights"], [HEADER], [HEADER, row(month=13)], [HEADER, row(b"\xff")]])
def test_a_file_of_something_else_is_one_line_and_3(
    lines: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "flights.csv", *lines)

    assert cli.main(["demo", "supervise", "--no-progress", "--data", str(file)]) == cli.UNREADABLE
    assert capsys.readouterr().err.count("\n") == 1


def test_another_story_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "other"]) == cli.USAGE
    assert "'supervise'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal of Unix here")
def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    with zipfile.ZipFile(SAMPLE) as archive:
        archive.extractall(tmp_path)
    lines = (tmp_path / "flights.csv").read_bytes()
    header, _, rest = lines.partition(b"\n")
    (tmp_path / "long.csv").write_bytes(header + b"\n" + rest * 60)
    command = [sys.executable, "-m", "meshos", "demo", "supervise", "--data", str(tmp_path / "long.csv")]
    # Of a group of its own: the signal is not for who runs the tests.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # progress: it streams
        assert " % " in first
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=50)
    assert process.returncode == cli.INTERRUPTED, err
    assert err.endswith("meshos: interrupted\n")
    assert "Traceback" not in err
    assert "ok: " not in out


# ---------------------------------------------------------------- the daemons


@pytest.mark.parametrize("carriers", [1, 2, 16, 200])
def test_there_are_200_daemons_whatever_the_carriers(carriers: int) -> None:
    shared = shares([f"C{n}" for n in range(carriers)])

    assert sum(shared.values()) == len(set(names(shared))) == DAEMONS
    assert max(shared.values()) - min(shared.values()) <= 1


def test_more_carriers_than_daemons_get_one_each() -> None:
    assert set(shares([str(n) for n in range(300)]).values()) == {1}


def test_a_straight_count_by_daemon_adds_up_to_that_by_carrier() -> None:
    shared = shares(["UA", "AA"])
    by_daemon = count(
        SAMPLE, lambda carrier, flight: name_of(carrier, share_of(flight.encode(), shared.get(carrier, 1)))
    )
    by_carrier = count(SAMPLE)

    assert by_daemon.rows == by_carrier.rows == len(list(rows(SAMPLE)))
    for carrier, months in by_carrier.months.items():
        shards = [of for name, of in by_daemon.months.items() if name.startswith(f"{carrier}-")]
        for month, totals in enumerate(months):
            assert sum(of[month].flights for of in shards) == totals.flights
            assert sum(of[month].delay_sum for of in shards) == totals.delay_sum


def test_poison_spoils_what_was_counted() -> None:
    daemon = Shard()
    daemon.process(CausalEvent.external(7, 1, row()))
    before = daemon.snapshot()

    with pytest.raises(EngineFailure):
        daemon.process(CausalEvent.external(7, 2, POISON))
    assert daemon.snapshot() != before

    daemon.restore(before)
    assert daemon.snapshot() == before


# ---------------------------------------------------------------- the senders


def test_batches_of_one_receiver_are_sent_in_order() -> None:
    sent: list[tuple[int, int]] = []

    with Senders[tuple[int, int]](sent.append) as senders:
        for number in range(50):
            for receiver in range(3):
                senders.put(receiver, (receiver, number))
        senders.join()

    assert len(sent) == 150
    for receiver in range(3):
        assert [number for to, number in sent if to == receiver] == list(range(50))


def test_receivers_do_not_wait_for_each_other() -> None:
    together = Barrier(THREADS, timeout=20)

    def meet(_number: int) -> None:
        together.wait()

    with Senders[int](meet) as senders:
        for receiver in range(THREADS):
            senders.put(receiver, receiver)
        senders.join()


def test_what_a_sender_raises_comes_out() -> None:
    def failing(number: int) -> None:
        raise ZeroDivisionError(number)

    with Senders[int](failing) as senders:
        senders.put(0, 7)
        with pytest.raises(ZeroDivisionError):
            senders.join()
        with pytest.raises(ZeroDivisionError):
            senders.put(0, 8)


def test_leaving_drops_the_batches_that_wait() -> None:
    inside, release, finished = Event(), Event(), Event()
    done: list[int] = []

    def slow(number: int) -> None:
        inside.set()
        release.wait(20)
        done.append(number)
        finished.set()

    with Senders[int](slow) as senders:
        for number in range(BATCHES_MAX):
            senders.put(0, number)
        assert inside.wait(20)
    # It was left while the first was under way, which is not waited for without end.
    release.set()
    assert finished.wait(20)
    assert done == [0]
