import io
import json
import logging
import re
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.logs import LOG_LEVELS, LogFormat, configure_logging

# A key, and a value that is bare or in quotes; the form that the readers of logfmt agree on.
FIELD = re.compile(r'([^\0- ="]+)=((?:"(?:[^"\\]|\\.)*")|[^\0- "=]*)(?: |$)')
FORMATS: tuple[LogFormat, ...] = ("logfmt", "json")
logger = logging.getLogger("sitecore_cdp_exporter.room")


def configure(log_format: LogFormat, level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, log_format, stream)
    return stream


def parse_logfmt(line: str) -> dict[str, str]:
    """Read a line, all of it."""
    fields: dict[str, str] = {}
    position = 0
    while position < len(line):
        field = FIELD.match(line, position)
        assert field, line[position:]
        key, value = field[1], field[2]
        fields[key] = json.loads(value) if value.startswith('"') else value
        position = field.end()
    return fields


def read_line(stream: io.StringIO, log_format: LogFormat) -> dict[str, Any]:
    """Read the one line that was logged."""
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    if log_format == "logfmt":
        return parse_logfmt(text.removesuffix("\n"))
    fields: dict[str, Any] = json.loads(text)
    return fields


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_line_has_time_level_source_and_message(log_format: LogFormat) -> None:
    stream = configure(log_format)
    before = datetime.now(UTC)
    logger.warning("a %s", "thing", extra={"ref": "abc", "count": 3, "on": True, "nothing": None})
    fields = read_line(stream, log_format)
    assert before <= datetime.fromisoformat(fields.pop("time")) <= datetime.now(UTC)
    values = (
        {"count": 3, "on": True, "nothing": None}
        if log_format == "json"
        else {"count": "3", "on": "true", "nothing": ""}
    )
    assert fields == {"level": "warn", "source": "room", "msg": "a thing", "ref": "abc", **values}


def test_logfmt_begins_as_the_lines_of_prometheus_do() -> None:
    stream = configure("logfmt")
    logger.info("listening", extra={"address": ":10311"})
    assert re.fullmatch(r"time=\S+ level=info source=room msg=listening address=:10311\n", stream.getvalue())


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        *("two\nlines", "a\r\nb c", "tab\there", "a\x0bb\x85c", "\x1b[31mred\x1b[0m", "\0"),
        *('"quoted" = \\', "\\", "", " ", "ä ☃"),
    ],
)
def test_any_record_is_one_line(log_format: LogFormat, text: str) -> None:
    stream = configure(log_format)
    logger.error("%s", text, extra={"value": text})
    fields = read_line(stream, log_format)
    assert "\x1b" not in stream.getvalue()
    if log_format == "json" or text.isprintable():
        assert (fields["msg"], fields["value"]) == (text, text)


@given(text=st.text(st.characters(exclude_categories=["Cs", "Zl", "Zp"])), log_format=st.sampled_from(FORMATS))
def test_any_record_is_one_line_that_can_be_read(text: str, log_format: LogFormat) -> None:
    stream = configure(log_format)
    logger.error("%s", text, extra={"value": text})
    assert read_line(stream, log_format).keys() == {"time", "level", "source", "msg", "value"}


@pytest.mark.parametrize("log_format", FORMATS)
def test_an_exception_stays_on_its_line(log_format: LogFormat) -> None:
    stream = configure(log_format)
    try:
        int("first\nline")
    except ValueError:
        logger.exception("it failed")
    fields = read_line(stream, log_format)
    assert fields["msg"] == "it failed"
    assert fields["exception"].startswith("Traceback (most recent call last):\n  File")
    assert fields["exception"].endswith(r"ValueError: invalid literal for int() with base 10: 'first\nline'")


@pytest.mark.parametrize("log_format", FORMATS)
def test_loggers_and_warnings_of_libraries_look_the_same(log_format: LogFormat) -> None:
    stream = configure(log_format)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    fields = read_line(stream, log_format)
    assert (fields["level"], fields["source"]) == ("warn", "py.warnings")
    assert "UserWarning: old" in fields["msg"]


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_a_level_leaves_out_what_is_below_it(level: str) -> None:
    stream = configure("json", level)
    for each in (logger.debug, logger.info, logger.warning, logger.error):
        each("said")
    logged = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert logged == list(LOG_LEVELS[LOG_LEVELS.index(level) :])


def test_the_requests_of_the_connection_pool_are_not_logged() -> None:
    stream = configure("logfmt")
    logging.getLogger("urllib3.connectionpool").debug("GET /secret")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_the_format() -> None:
    first = configure("logfmt")
    second = configure("json")
    logger.info("once")
    assert first.getvalue() == ""
    assert read_line(second, "json")["msg"] == "once"


def test_without_a_stream_it_is_the_standard_error_of_now(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "logfmt")
    logger.info("here")
    assert "msg=here" in capsys.readouterr().err
