"""Logging to standard error as logfmt or JSON, in the format of Prometheus' own programs."""

import logging
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

LogFormat = Literal["logfmt", "json"]
LOG_LEVELS = ("debug", "info", "warn", "error")
# structlog's logfmt escapes newlines only. Other control characters could still break a line or control a terminal.
_OTHER_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}


def configure_logging(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send the records of all loggers to the stream, one line each.

    Args:
        level: One of LOG_LEVELS; lower levels are dropped.
        log_format: The format of the lines.
        stream: Where to write; None means standard error.

    """
    renderers = (
        [structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            _escape_control_characters,
            structlog.processors.LogfmtRenderer(key_order=["time", "level", "source", "msg"], bool_as_flag=False),
        ]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _add_level,
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.EventRenamer("msg"),
                *renderers,
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # The connection pool logs every request at debug level, which the metrics already count.
    logging.getLogger("urllib3").setLevel(logging.INFO)


def _add_level(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["level"] = {"WARNING": "warn", "CRITICAL": "error"}.get(record.levelname, record.levelname.lower())
    event["source"] = record.name.removeprefix("sitecore_cdp_exporter.")
    return event


def _escape_control_characters(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: value.translate(_OTHER_CONTROL_CHARACTERS) if isinstance(value, str) else value
        for key, value in event.items()
    }
