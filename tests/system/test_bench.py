"""The benchmarks run, count what they should, and have their place in docs/performance.md."""

import re
import sys
from pathlib import Path

import pytest

from tools.bench import encoding, error_logs, requests_of_a_scrape, resources, scrape
from tools.bench.__main__ import GROUPS
from tools.bench.figures import HEAD, Measured, Settings, formatted, row, table, take_turns
from tools.exporter_program import ROOT

DOCUMENT = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")

STAND_IN_FOR_JSON_EXPORTER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
with open(flags["config.file"], encoding="utf-8") as config:
    modules = yaml.safe_load(config)["modules"]
host, port = flags["web.listen-address"].split(":")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/probe":
            query = parse_qs(url.query)
            (module,), (target,) = query["module"], query["target"]
            answer = f"batch_status_seen{{path=\\"{urlsplit(target).path}\\"}} {len(modules[module])}".encode()
        else:
            answer = b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

HTTPServer((host, int(port)), Handler).serve_forever()
"""


measuring = pytest.mark.slow(reason="starts exporters and their competitors again and again to measure them")


def settings(json_exporter: Path | None = None) -> Settings:
    return Settings(rounds=1, json_exporter=json_exporter)


def names_of(module_groups: tuple[object, ...]) -> set[str]:
    return {name for group in GROUPS if group in module_groups for name in group.names}


def test_the_document_has_the_rows_that_are_measured() -> None:
    measured = {(name, f"{size:,}") for group in GROUPS for name in group.names for size in group.sizes}
    table = DOCUMENT.partition("\n## Alert rules\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    head, _, *rows = lines
    assert tuple(head) == HEAD
    assert len(rows) == len(measured)
    assert {(name, size) for name, size, *_ in rows} == measured


def test_the_document_names_machine_versions_and_date() -> None:
    assert re.search(
        r"\d{4}-\d\d-\d\d: sitecore-cdp-batch-exporter .*, Python 3\..*, prometheus-client .* cores", DOCUMENT
    )


def test_a_quick_run_measures_the_same_figures_for_fewer_batches() -> None:
    for group in GROUPS:
        assert set(group.quick_sizes) <= set(group.sizes)
        assert group.quick_sizes


@measuring
def test_a_scrape_makes_no_request_too_many() -> None:
    measured = requests_of_a_scrape.measure(101, settings())
    assert measured[requests_of_a_scrape.LISTED].value == 101
    # Two pages of the unfinished, and one of the finished.
    assert measured[requests_of_a_scrape.DISCOVERED].value == 3
    assert all(figure.value == figure.limit for figure in measured.values())


def test_encoding_is_measured() -> None:
    assert encoding.measure(10, settings()).keys() == names_of(encoding.GROUPS)


@measuring
def test_resources_are_measured() -> None:
    measured = resources.measure(20, settings())
    assert measured.keys() == names_of(resources.GROUPS)
    # What does not grow is taken off, so little is left of so few.
    assert abs(measured[resources.TRACED].value) < 1


@measuring
def test_the_reading_of_an_error_log_is_measured() -> None:
    measured = error_logs.measure(20_000, settings())
    assert measured.keys() == names_of(error_logs.GROUPS)
    assert measured[error_logs.PROCESSOR].value > 0
    # It may be nothing, where a child needs more to begin than to read.
    assert 0 <= measured[error_logs.MEMORY].value < error_logs.MAX_MEMORY


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure few batches no more often than many."""
    monkeypatch.setattr(scrape, "SIZE_OF_FEW", 0)


@measuring
@pytest.mark.usefixtures("once")
def test_a_scrape_is_measured_beside_what_else_one_could_run(tmp_path: Path) -> None:
    program = tmp_path / "json_exporter"
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN_FOR_JSON_EXPORTER, encoding="utf-8")
    # The first line of a script cannot name an interpreter whose path has blanks.
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    measured = scrape.measure_scrape(2, settings(program))
    assert measured.keys() == {name for name in names_of(scrape.GROUPS) if name != scrape.START}
    for name in (scrape.SCRAPE, scrape.BARE):
        assert measured[name].value > scrape.ANSWER_TIME
    assert measured[scrape.LOOP].value > 2 * scrape.ANSWER_TIME


@measuring
@pytest.mark.usefixtures("once")
def test_without_its_path_json_exporter_is_not_measured() -> None:
    measured = scrape.measure_scrape(1, settings())
    assert scrape.JSON_EXPORTER not in measured
    assert row(scrape.JSON_EXPORTER, 10, None)[2] == "not given"


@measuring
def test_a_start_is_measured() -> None:
    measured = scrape.measure_start(2, settings())[scrape.START]
    assert measured.limit is not None
    assert measured.value > scrape.ANSWER_TIME


def test_contenders_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    values = {"a": [1.0, 9.0, 2.0], "b": [3.0, 5.0, 4.0]}

    def turn(name: str) -> float:
        order.append(name)
        return values[name][len(order) // 2 + len(order) % 2 - 1]

    assert take_turns(3, {"a": lambda: turn("a"), "b": lambda: turn("b")}) == {"a": 2.0, "b": 4.0}
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.1234, "s", "123 ms"),
        (0.0000015, "s", "1.50 µs"),
        (6.7891, "s", "6.79 s"),
        (110.4, "s", "110 s"),
        (0.47, "MB", "470 KB"),
        (1000.0, "", "1,000"),
        (0.02, "", "0.02"),
        (0.0, "s", "0.00 µs"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, unit: str, expected: str) -> None:
    assert formatted(value, unit) == expected


def test_a_row_has_its_limit_beside_the_figure() -> None:
    assert row("figure", 1000, Measured(1.5, 1.0, "s")) == ("figure", "1,000", "1.50 s", "1.00 s", "1.50", "1.50 ms")
    assert row("figure", 1000, Measured(1.5, None, "MB", grows=False)) == ("figure", "1,000", "1.50 MB", "", "", "")
    lines = list(table([row("figure", 10, Measured(1.5, 1.0, "s"))]))
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == "| figure |      10 |   1.50 s | 1.00 s |             1.50 |  150 ms |"
