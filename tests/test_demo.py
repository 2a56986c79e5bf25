"""The demo: it holds on the sample that ships with the package, and fails where something is wrong."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from meshos import cli
from meshos.chain import CausalEvent, ChainReport, verify_chain
from meshos.demo.carrier import END, SUMMARY_EVERY, Carrier, Totals
from meshos.demo.flights import CARRIER, HEADER, MONTH, SAMPLE, FlightFileError, rows
from meshos.demo.make_sample import EVERY, make_sample
from meshos.demo.plain import count
from meshos.demo.report import AIRLINES, Line, Progress, table
from meshos.demo.run import run
from meshos.errors import ChainError, FileDecodeError
from meshos.identity import EntityId

ROW = b"2013,%d,1,517,515,%s,830,819,11,%s,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"


def row(carrier: bytes = b"UA", *, month: int = 1, delay: bytes = b"2") -> bytes:
    return ROW % (month, delay, carrier)


def event(payload: bytes, sequence: int = 1) -> CausalEvent:
    return CausalEvent.external(origin_hash=7, sequence=sequence, payload=payload)


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------- the sample


def test_the_sample_has_every_carrier_and_every_month() -> None:
    fields = [line.split(b",") for line in rows(SAMPLE)]

    assert len(fields) == 4041
    assert {line[CARRIER].decode() for line in fields} == set(AIRLINES)
    assert {int(line[MONTH]) for line in fields} == set(range(1, 13))
    # Or there would be no summary but the last.
    assert max(Counter(line[CARRIER] for line in fields).values()) > SUMMARY_EVERY
    assert SAMPLE.stat().st_size < 150_000


def test_a_sample_is_made_of_the_same_bytes_every_time(tmp_path: Path) -> None:
    sizes = [make_sample(SAMPLE, tmp_path / name) for name in ("one.zip", "two.zip")]
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        (member,) = archive.infolist()

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert member.date_time == (1980, 1, 1, 0, 0, 0)
    # Every row of OO is kept: 32, of which one may be an EVERYth row anyway.
    assert 0 <= 4041 // EVERY + 1 + 32 - sizes[0] <= 32


# ---------------------------------------------------------------- the story


def test_all_of_it_holds_on_the_sample() -> None:
    out = io.StringIO()

    holds = run(SAMPLE, out, None)

    text = out.getvalue()
    assert holds
    assert "16 daemons snapshotted, stopped, and restored" in text
    assert text.count("\nok: ") == 4
    assert "FAILED" not in text
    assert "refused, " in text
    assert all(f"\n{carrier} " in text for carrier in AIRLINES)
    assert "4,057 events in " in text


def test_a_plain_csv_file_does_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(SAMPLE) as archive:
        archive.extractall(tmp_path)

    assert run(tmp_path / "flights.csv", io.StringIO(), None)


@pytest.mark.parametrize("lines", [[row()], [row(), row(b"AA")], [row(delay=b"NA")] * 3])
def test_a_file_of_few_rows_is_no_special_case(lines: list[bytes], tmp_path: Path) -> None:
    assert run(written(tmp_path / "flights.csv", HEADER, *lines), io.StringIO(), None)


def test_a_daemon_that_counts_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()

    def forgetful(self: Totals, delay: int) -> None:
        self.delays += delay != 13

    monkeypatch.setattr(Totals, "add_delay", forgetful)

    assert not run(SAMPLE, out, None)
    assert "FAILED: all totals of 16 daemons" in out.getvalue()
    assert "FAILED: the last summary" in out.getvalue()


def test_state_lost_in_the_restart_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(Carrier, "restore", lambda self, state: None)

    assert not run(SAMPLE, out, None)
    assert "FAILED: all totals" in out.getvalue()


def test_a_verification_that_accepts_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = io.StringIO(), dict[EntityId, ChainReport]()

    def gullible(file: Path, entity_id: EntityId) -> ChainReport:
        if entity_id not in seen:
            seen[entity_id] = verify_chain(file, entity_id)
        return seen[entity_id]

    monkeypatch.setattr("meshos.demo.run.verify_chain", gullible)

    assert not run(SAMPLE, out, None)
    assert "FAILED: one byte flipped in a copy: accepted" in out.getvalue()


def test_a_chain_that_cannot_be_verified_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()

    def strict(file: Path, entity_id: EntityId) -> ChainReport:
        raise FileDecodeError(12, "nothing is good enough")

    monkeypatch.setattr("meshos.demo.run.verify_chain", strict)

    assert not run(SAMPLE, out, None)
    assert "FAILED: 16 chains, 0 events" in out.getvalue()
    assert "UA: byte 12: nothing is good enough" in out.getvalue()


# ---------------------------------------------------------------- the command


def test_the_command_exits_with_0_and_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["demo"])

    out, err = capsys.readouterr()
    assert code == cli.OK
    assert out.count("\nok: ") == 4
    assert 10 <= err.count(" % ") <= 12
    assert "\r" not in err


def test_the_command_is_quiet_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--no-progress", "--data", str(SAMPLE)]) == cli.OK
    assert capsys.readouterr().err == ""


def test_the_command_exits_with_1_when_something_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Totals, "add_delay", lambda self, delay: None)

    assert cli.main(["demo", "--no-progress"]) == cli.FAILED


def test_the_command_exits_with_1_when_a_daemon_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Totals, delay: int) -> None:
        raise OverflowError("too late")

    monkeypatch.setattr(Totals, "add_delay", broken)

    assert cli.main(["demo", "--no-progress"]) == cli.FAILED
    err = capsys.readouterr().err
    assert err.startswith("meshos: ProcessFailed: ")
    assert err.endswith("(OverflowError: too late)\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "row 0"),
        ([b"not,flights"], "row 0"),
        ([HEADER], "no rows"),
        ([HEADER, b"2013,1"], "row 1"),
        ([HEADER, row(), row(month=13)], "row 2"),
        ([HEADER, row(), row(), row(delay=b"late")], "row 3"),
        ([HEADER, row(b"")], "row 1"),
        ([HEADER, row(b"\xff\xff")], "row"),
        ([HEADER, row() + b",more"], "row 1"),
    ],
)
def test_a_file_of_something_else_is_one_line_and_3(
    lines: list[bytes], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "flights.csv", *lines)

    code = cli.main(["demo", "--no-progress", "--data", str(file)])

    err = capsys.readouterr().err
    assert code == cli.UNREADABLE
    assert err.startswith(f"meshos: {file}: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_cannot_be_opened_is_one_line_and_3(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--data", str(tmp_path / name)]) == cli.UNREADABLE
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- reading


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"\n".join([HEADER, row()]))
    return path


@pytest.mark.parametrize("names", [(), ("readme.txt",), ("a.csv", "b.csv")])
def test_a_zip_needs_one_csv_file(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(FlightFileError, match="CSV files, not one"):
        list(rows(zipped(tmp_path / "flights.zip", *names)))


def test_a_zip_may_have_other_files_beside_it(tmp_path: Path) -> None:
    assert list(rows(zipped(tmp_path / "flights.zip", "readme.txt", "data/flights.csv"))) == [row()]


@pytest.mark.parametrize("read", [lambda path: list(rows(path)), count])
def test_a_damaged_zip_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    data = bytearray(SAMPLE.read_bytes())
    data[len(data) // 2] ^= 1
    file = tmp_path / "flights.zip"
    file.write_bytes(data)

    with pytest.raises(FlightFileError):
        read(file)


def test_line_ends_of_windows_are_no_part_of_a_row(tmp_path: Path) -> None:
    file = written(tmp_path / "flights.csv", HEADER + b"\r", row() + b"\r")

    assert list(rows(file)) == [row()]


def test_rows_of_a_file_with_another_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlightFileError, match="first line"):
        list(rows(written(tmp_path / "flights.csv", b"a,b", b"1,2")))


def test_a_row_with_another_number_of_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlightFileError, match="row 2 has 2 columns"):
        list(rows(written(tmp_path / "flights.csv", HEADER, row(), b"1,2")))


# ---------------------------------------------------------------- the daemon


def test_a_summary_comes_every_500_flights_and_at_the_end() -> None:
    daemon = Carrier()

    outputs = [daemon.process(event(row(), n)) for n in range(1, 2 * SUMMARY_EVERY + 2)]
    outputs.append(daemon.process(event(END)))

    summaries = [(n, json.loads(output)) for n, output in enumerate(outputs, 1) if output is not None]
    assert [(n, found["flights"], found["final"]) for n, found in summaries] == [
        (500, 500, False),
        (1000, 1000, False),
        (1002, 1001, True),
    ]


def test_delays_and_cancellations_are_counted_by_month() -> None:
    daemon = Carrier()
    cancelled = row(month=2, delay=b"NA").replace(b",517,", b",NA,")

    for line in (row(month=2, delay=b"-3"), row(month=2, delay=b"5"), cancelled, row(month=12, delay=b"1")):
        daemon.process(event(line))

    assert daemon.months[1] == Totals(3, 1, 2, 2, 34, -3, 5)
    assert daemon.months[11] == Totals(1, 0, 1, 1, 1, 1, 1)
    assert daemon.months[0] == Totals()


def test_a_restored_daemon_goes_on_as_the_one_before() -> None:
    one, two = Carrier(), Carrier()
    one.process(event(row()))

    two.restore(one.snapshot())
    outputs = [daemon.process(event(END)) for daemon in (one, two)]

    assert outputs[0] == outputs[1]
    assert (two.carrier, two.months) == (one.carrier, one.months)


@pytest.mark.parametrize("line", [row(b"AA"), row(month=0), row(month=13), row(delay=b"late"), b"", b"1,2"])
def test_a_row_that_is_refused_leaves_no_trace(line: bytes) -> None:
    daemon = Carrier()
    daemon.process(event(row()))
    before = daemon.snapshot()

    with pytest.raises((ValueError, IndexError)):
        daemon.process(event(line))

    assert daemon.snapshot() == before


# ---------------------------------------------------------------- the report


def test_a_table_adds_up() -> None:
    lines = [Line("UA", 1500, 3, 10, 50, 4, bytes(32)), Line("??", 1, 1, 0, 0, 1, b"")]

    header, first, second, total = table(lines).split("\n")

    assert header.split() == ["carrier", "flights", "cancelled", "mean", "delay", "events", "in", "chain", "head"]
    assert first.split() == ["UA", "United", "Air", "Lines", "1,500", "3", "5.0", "min", "4", "0" * 16]
    assert second.split() == ["??", "1", "1", "-", "1"]
    assert total.split() == ["all", "1,501", "4", "5.0", "min", "5"]


def test_a_terminal_gets_a_bar_on_one_line() -> None:
    terminal = Terminal()

    with Progress(200, terminal) as progress:
        for done in (1, 100, 200):
            progress.at(done)

    shown = terminal.getvalue()
    assert shown.count("\r") == 3
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "[" + "#" * 15 + "." * 15 + "]  50 %  100 of 200" in shown


def test_a_file_gets_a_line_every_10_percent() -> None:
    log = io.StringIO()

    with Progress(1000, log) as progress:
        for done in range(1, 1001):
            progress.at(done)

    lines = log.getvalue().splitlines()
    assert [line.split(" %")[0] for line in lines] == [str(n) for n in range(10, 101, 10)]


def test_ctrl_c_leaves_the_bar_s_line() -> None:
    terminal = Terminal()

    def interrupted() -> None:
        with Progress(10, terminal) as progress:
            progress.at(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert terminal.getvalue().endswith("\n")


def test_errors_of_the_demo_are_told_apart() -> None:
    assert not issubclass(FlightFileError, ChainError | OSError)
