"""What one scrape may tell: the result of a poll as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.watch.watchlist import Watched


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and when it was read, in seconds since the Unix epoch."""

    batch: Batch
    polled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """What may be told of a watched batch.

    Attributes:
        watched: The batch as it is watched.
        reading: Its last reading, if that still holds.
        failure: Why the last poll failed; None: it did not.
        accepted: Whether the finished batch counts as loaded; None: not known yet.
        superseded: Whether a batch was accepted that makes good for it: one that replaces it, or a later one of its
            feed; None: it has not failed, or neither is asked for.

    """

    watched: Watched
    reading: Reading | None = None
    failure: Reason | None = None
    accepted: bool | None = None
    superseded: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryState:
    """What came of reading the API's list of batches.

    Attributes:
        failure: Why the list could not be read in this poll; None: it was.
        totals: How many batches of the past 30 days have each status; None: not known.
        dropped: How many batches are not watched because of `discovery.max_batches`.
        unreadable: How many items of the list were not readable, wholly or in part.

    """

    failure: Reason | None
    totals: Mapping[BatchStatus, int] | None
    dropped: int
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """A feed and when its newest accepted batch was modified, in seconds since the Unix epoch; 0: none was seen."""

    feed: FeedConfig
    last_accepted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one scrape may tell.

    Attributes:
        batches: One state for each watched batch, in the order of the watch list.
        api_up: None before the first request.
        api_last_success: When the API last answered as it should, in seconds since the Unix epoch; None: never.
        poll_duration: Seconds.
        retired: How many batches are known, but past their retention.
        unread: How many finished batches are watched whose details are still to be read.
        discovery: None while discovery is off.
        feeds: One state for each feed of the config.

    """

    batches: tuple[BatchState, ...]
    api_up: bool | None
    api_last_success: float | None
    poll_duration: float
    retired: int = 0
    unread: int = 0
    discovery: DiscoveryState | None = None
    feeds: tuple[FeedState, ...] = field(default=())
