"""The demo of moves."""

import io

import pytest

from meshos import cli
from meshos.demo import pipeline
from meshos.demo.carrier import Totals
from meshos.demo.flights import SAMPLE
from meshos.demo.travel import Traveller, run


@pytest.fixture(autouse=True)
def _more_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take departures as very late sooner: the sample has few."""
    monkeypatch.setattr(pipeline, "LATE", 60)
    monkeypatch.setattr(Traveller, "late", 60)


def test_every_daemon_moves_twice_and_all_of_it_holds() -> None:
    out = io.StringIO()
    assert run(SAMPLE, out, None)
    printed = out.getvalue()
    assert printed.count("ok:") == 4
    assert "moves, each to the next epoch" in printed
    assert " ms" in printed


def test_a_daemon_that_forgets_on_its_way_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Traveller.restore

    def forgets(self: Traveller, state: bytes) -> None:
        right(self, state)
        self.months = [Totals() for _ in range(12)]

    monkeypatch.setattr(Traveller, "restore", forgets)
    out = io.StringIO()
    assert not run(SAMPLE, out, None)
    assert "FAILED: all totals of 16 daemons" in out.getvalue()


def test_it_is_a_story_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "travel", "--no-progress"]) == cli.OK
    assert "moves, each to the next epoch" in capsys.readouterr().out
