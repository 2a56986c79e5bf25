"""The demo of a mesh: what it promises holds on the sample, and it finds what does not hold."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshos import cli
from meshos.chain import CausalEvent
from meshos.daemon import Output
from meshos.demo import pipeline
from meshos.demo.flights import SAMPLE
from meshos.demo.pipeline import FLIGHT, Pager, Parser, Statistics, run


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sample has few departures that were five hours late."""
    monkeypatch.setattr(pipeline, "LATE", 60)
    monkeypatch.setattr(Statistics, "late", 60)
    return iter(())


def test_all_of_it_holds_on_the_sample() -> None:
    out = io.StringIO()
    assert run(SAMPLE, out, None), out.getvalue()
    told = out.getvalue()
    assert told.count("\nok: ") == 5
    assert "FAILED" not in told
    assert "ok: all totals of 16 daemons equal the straight count" in told
    assert "ok: 17 chains with " in told
    late = re.search(r"ok: (\d+) alarms came once", told)
    assert late is not None
    assert int(late[1]) > 100


def test_an_alarm_that_is_missing_or_comes_twice_shows() -> None:
    late = {"UA": [(1, 70), (1, 80)]}
    alarms = [FLIGHT.pack(b"UA", 1, False, delay) for delay in (70, 80)]
    assert not [*pipeline._alarms(late, alarms)]
    assert [*pipeline._alarms(late, alarms[:1])] == ["UA: 1 came, 2 were due"]
    assert [*pipeline._alarms(late, [*alarms, alarms[1]])] == ["UA: 3 came, 2 were due"]
    assert [*pipeline._alarms(late, alarms[::-1])] == ["UA: 2 came, 2 were due"]


def test_a_daemon_that_loses_a_row_makes_it_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Statistics.process

    def forgets(self: Statistics, event: CausalEvent) -> Output | None:
        if self.flights == 10:
            self.flights += 1
            return None
        return right(self, event)

    monkeypatch.setattr(Statistics, "process", forgets)
    monkeypatch.setattr(Pager, "process", lambda self, event: self.alarms.append(event.payload))
    late = pipeline._late

    def fewer(path: Path) -> dict[str, list[tuple[int, int]]]:
        return {carrier: found[:1] for carrier, found in late(path).items()}

    monkeypatch.setattr(pipeline, "_late", fewer)
    out = io.StringIO()
    assert not run(SAMPLE, out, None)
    assert "FAILED: all totals of 16 daemons" in out.getvalue()


def test_it_is_a_story_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "pipeline", "--no-progress"]) == cli.OK
    assert "three nodes" in capsys.readouterr().out


def test_a_row_goes_to_the_daemon_of_its_carrier() -> None:
    row = b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
    output = Parser().process(CausalEvent.external(7, 1, row))
    assert output.to == pipeline.identity_of(b"UA").origin_hash
    assert FLIGHT.unpack(output.payload) == (b"UA", 1, False, 2)
