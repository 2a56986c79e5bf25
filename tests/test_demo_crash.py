"""The demo of durability: what it promises holds on the sample, and it finds what does not hold."""

import io
import re
from pathlib import Path

import pytest

from meshos.demo import crash
from meshos.demo.crash import KILLS, identity_of, run
from meshos.demo.flights import SAMPLE
from meshos.demo.plain import count
from meshos.store import inspect


def test_all_of_it_holds_on_the_sample() -> None:
    out = io.StringIO()
    assert run(SAMPLE, out, None), out.getvalue()
    told = out.getvalue()
    assert told.count("\nok: ") == 3
    assert "FAILED" not in told
    assert "ok: all totals of 16 daemons equal the straight count" in told
    lives = re.findall(r"^ +(\d+) +(\d+) +[\d.]+ +([\d,]+) +([\d,]+)$", told, re.MULTILINE)
    assert [int(number) for number, *_ in lives] == list(range(1, KILLS + 2))
    assert lives[0][1:3] == ("0", "0")
    assert lives[-1][3] == "4,041"
    assert any(again != "0" for _, _, again, _ in lives)


def test_what_is_streamed_again_is_not_counted_again(tmp_path: Path) -> None:
    for _ in range(2):
        crash.stream(SAMPLE, tmp_path / "state", 1_000, io.StringIO())
    daemons = inspect(tmp_path / "state").daemons
    assert len(daemons) == 16
    assert sum(daemon.steps for daemon in daemons) == 4_041
    assert {daemon.entity_id for daemon in daemons} >= {identity_of(b"UA").entity_id}


def test_a_loss_would_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crash.stream(SAMPLE, tmp_path / "state", 1_000, io.StringIO())
    plain = count(SAMPLE)
    plain.months["UA"][0].flights += 1
    kept = crash._totals_in(tmp_path / "state", plain)
    (doubt,) = crash._compare(plain, kept)
    assert doubt.startswith("UA: ")
    assert [*crash._nothing_lost([crash.Life(since=7, seen=3)])] == [
        "process 1: row 7 was acknowledged before, and 3 is the last there"
    ]
