"""The section `expect_success_by`: when the batches of a feed are due by the clock."""

import datetime as dt
import re
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from sitecore_cdp_exporter.config.section import Section
from sitecore_cdp_exporter.config.values import Interval

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
# In the order of datetime.date.weekday().
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TIME = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
ZONE = "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"
# Entries that some systems keep beside the IANA zones: the machine's own zone, or zones with leap seconds.
NO_ZONE = re.compile("localtime|posixrules|Factory|(posix|right)/.*")


def _to_time(value: object) -> object:
    if isinstance(value, dt.time):
        return value
    if not isinstance(value, str) or not re.fullmatch(TIME, value):
        raise ValueError('expected a time of the day from "00:00" to "23:59", in quotes')
    return dt.time.fromisoformat(value)


def _to_date(value: object) -> object:
    """Parse a date. The YAML reader keeps dates as text; code may pass a date."""
    if isinstance(value, dt.date):
        return value
    try:
        if isinstance(value, str) and re.fullmatch(DATE, value):
            return dt.date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("expected a date such as 2026-12-25")


def _to_zone(value: object) -> object:
    if isinstance(value, ZoneInfo):
        return value
    try:
        if isinstance(value, str) and re.fullmatch(ZONE, value) and not NO_ZONE.fullmatch(value):
            return ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # The last for a folder of the database, such as Europe.
        pass
    raise ValueError("unknown time zone; expected a name of the IANA database such as Europe/Berlin or UTC")


TimeOfDay = Annotated[dt.time, BeforeValidator(_to_time), WithJsonSchema({"type": "string", "pattern": TIME})]
Date = Annotated[dt.date, BeforeValidator(_to_date), WithJsonSchema({"type": "string", "pattern": DATE})]
TimeZone = Annotated[ZoneInfo, BeforeValidator(_to_zone), WithJsonSchema({"type": "string", "pattern": ZONE})]


class Calendar(Section):
    """When a batch of the feed should have been accepted, by the clock."""

    time: TimeOfDay = Field(description="The deadline, in hours and minutes. In quotes.", examples=["23:30"])
    days: Annotated[tuple[Day, ...], Field(strict=False)] = Field(
        DAYS, description="The days of the week that have a deadline.", json_schema_extra={"minItems": 1}
    )
    timezone: TimeZone = Field(
        default="UTC",
        validate_default=True,
        description="The time zone of time, days and except, by its IANA name.",
        examples=["Europe/Berlin"],
    )
    window: Interval | None = Field(
        None,
        description="How long before the deadline a batch may be accepted and count for it. Default: since the "
        "previous deadline.",
    )
    excluded: Annotated[tuple[Date, ...], Field(strict=False)] = Field(
        (), alias="except", description="Dates without a deadline, such as 2026-12-25."
    )

    @field_validator("days")
    @classmethod
    def _are_some(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        if not days:
            raise ValueError("must not be empty; leave it out for every day of the week")
        return days
