"""The state of one organisation of Sitecore CDP between polls: its batches, its list, and how its API has answered.

Another organisation starts from scratch. Times are of the monotonic clock, in seconds, unless noted. Not thread-safe:
the poller calls it under its own lock.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.api.errors import BATCH_REASONS, PollError, Reason
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, PastBatches, foresee_accepted, newest_accepted
from sitecore_cdp_exporter.poll.backoff import Backoff
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.due import Expectation, expectation
from sitecore_cdp_exporter.poll.error_logs import ErrorLogQueue, LogState
from sitecore_cdp_exporter.poll.feed_totals import BatchCounter
from sitecore_cdp_exporter.poll.health import ApiHealth
from sitecore_cdp_exporter.poll.last_finished import LastFinished
from sitecore_cdp_exporter.poll.reading import Outcome, Reading, is_answer
from sitecore_cdp_exporter.poll.retention import Kept, keep
from sitecore_cdp_exporter.poll.superseding import replaced
from sitecore_cdp_exporter.watch.watchlist import BatchLists, Source, Watched, overruled, watch

logger = logging.getLogger(__name__)

MAX_REMEMBERED_PROBES = 1000
# Seconds. A slow API's answer that arrives between two scrapes is shown by the second.
MAX_AGE_OF_A_LATE_ANSWER = 120
# Seconds. The list has `modifiedAt` in milliseconds; the batch's own answer may be rounded to a second.
MAX_ROUNDING = 1.0


@dataclass(slots=True)
class Record:
    """The memory of one batch.

    Attributes:
        reading: Its own last answer.
        listed_modified: The list's `modifiedAt` at the time of that request.
        refused: Its entry in the list when it last answered 404 or 403. None: it did not, or was not listed.
        failure: Why the last request failed. None: it succeeded.
        warned: Whether that was logged as a warning.
        asked: When its last request ended.
        recheck: When to poll it again once it is finished.
        missed: Whether a scrape has ended while a request for it was in flight.
        late: Its last answer, if that came too late for a scrape.
        finished_seen: When it was first seen finished (Unix time). None: never.
        expired: Whether it was seen to have got no file in time.
        log: The state of its error log. None: it has none, or that is not known.

    """

    reading: Reading | None = None
    listed_modified: float | None = None
    refused: Batch | None = None
    failure: PollError | None = None
    warned: bool = False
    asked: float = float("-inf")
    recheck: float = float("-inf")
    missed: bool = False
    late: Outcome | None = None
    finished_seen: float | None = None
    expired: bool = False
    log: LogState | None = None

    @property
    def finished(self) -> bool:
        """Whether its own last answer shows it as finished."""
        return self.reading is not None and self.reading.batch.status.finished

    def is_read(self, listed: Batch) -> bool:
        """Return whether its own answer is as new as its entry in the list."""
        if self.reading is None or self.reading.batch.status is not listed.status:
            return False
        if self.listed_modified == listed.modified:
            return True
        # It may have been read while the list was unavailable, or not up to date.
        own = self.reading.batch.modified
        return own is not None and listed.modified is not None and abs(own - listed.modified) < MAX_ROUNDING

    def last_known(self, listed: Batch | None) -> Batch | None:
        """Return the batch by its own answer, or by the list if that is newer."""
        if self.reading is None or (listed is not None and listed.status.finished and not self.is_read(listed)):
            return listed
        return self.reading.batch

    def dated(self, listed: Reading | None) -> Batch | None:
        """Return the batch as last known, with the time when it finished in `modified`.

        If the API leaves out `modifiedAt`, fall back to `createdAt`, then to the time when the batch was first seen
        finished, because retention and the newest batch of a feed need some time.

        Args:
            listed: Its entry in the list, or None.

        """
        batch = self.last_known(None if listed is None else listed.batch)
        if batch is None or not batch.status.finished or batch.modified is not None:
            return batch
        seen = listed.polled if self.finished_seen is None and listed is not None else self.finished_seen
        return replace(batch, modified=seen if batch.created is None else batch.created)

    def late_answer(self, now: float) -> Outcome | None:
        """Return the answer that came too late for the previous scrape, unless it is too old by now."""
        return self.late if now - self.asked <= MAX_AGE_OF_A_LATE_ANSWER else None

    def note_listed(self, listed: Reading) -> None:
        """Record when the list first showed it as finished, or as expired."""
        self.expired = self.expired or listed.expired
        if self.finished_seen is None and listed.batch.status.finished:
            self.finished_seen = listed.polled

    def learn(self, outcome: Outcome, listed: Batch | None, now: float, recheck_finished: float) -> None:
        """Record the outcome of a request.

        Args:
            outcome: The answer, or why there was none.
            listed: Its entry in the list when the request was sent, or None.
            now: The current time.
            recheck_finished: Seconds after which a finished batch is polled again.

        """
        self.asked = now
        self.late = outcome if self.missed and is_answer(outcome if isinstance(outcome, PollError) else None) else None
        self.missed = False
        is_refusal = isinstance(outcome, PollError) and outcome.reason in BATCH_REASONS
        self.refused = listed if is_refusal else None
        if isinstance(outcome, PollError):
            self.failure = outcome
            # Retry in the next scrape, unless the answer was about the batch: otherwise a batch that has aged out of
            # the API would be requested in every scrape from then on.
            if is_refusal:
                self.recheck = now + recheck_finished
            return
        # The ref decides how early the first re-check is, so that batches that finish together, or are read together
        # after a restart, are not re-checked together.
        share = 1.0 if self.finished else (1 + int(outcome.batch.ref[-8:], 16) / 2**32) / 2
        self.recheck = now + recheck_finished * share
        self.failure = None
        self.reading = outcome
        self.expired = outcome.expired
        if not self.finished:
            self.finished_seen = None
        elif self.finished_seen is None:
            self.finished_seen = outcome.polled
        self.listed_modified = None if listed is None else listed.modified


class Memory:
    """The memory of one organisation.

    Attributes:
        backoff: When its API accepts requests.
        health: Whether its API is up.
        discovery: Its list of batches; empty while discovery is off.
        error_logs: The queue of its error logs.
        counter: Counts its batches for their feeds. Outlives the memory.
        watched: All listed batches, by ref in lower case, including those past their retention.
        list_failure: Why the last attempt to read its list failed. None: it succeeded, or there was none.
        last_request: When the last request ended, or when the memory was created.
        api_last_success: When its API last answered successfully (Unix time). None: never.
        complete_poll: When everything watched had last been answered for; None: that was never so.
        expected_since: Since when each feed has been expected to do what the config says of it.

    """

    def __init__(self, config: Config, counter: BatchCounter, now: float) -> None:
        self.backoff = Backoff()
        self.health = ApiHealth()
        self.discovery = Discovery()
        self.error_logs = ErrorLogQueue(config.error_logs)
        self.counter = counter
        self.watched: dict[str, Watched] = {}
        self.list_failure: Reason | None = None
        self.last_request = now
        self.api_last_success: float | None = None
        self.complete_poll: float | None = None
        self.expected_since: dict[Expectation, float] = {}
        self._identity = _identity(config)
        self._records: dict[str, Record] = {}
        self._probed: OrderedDict[str, Record] = OrderedDict()
        # The watched batches that replace others, by ref in lower case.
        self._replacing: list[str] = []
        self._feeds_of_batches: set[str | None] = set()
        # Each watched batch as known at the last update of the watch list.
        self._known: dict[str, Batch | None] = {}
        self._past = PastBatches()
        self._last_finished = LastFinished()
        self._overruled: set[str] = set()
        # The inputs that `watched` was computed from.
        self._lists: tuple[object, ...] = ()

    def is_of(self, config: Config) -> bool:
        """Return whether a config is for this organisation."""
        return self._identity == _identity(config)

    def watch(self, config: Config, batch_files: BatchLists, now: float) -> Kept:
        """Update the watch list, and return the part that is shown.

        Batches that are no longer watched are forgotten, except those past their retention but still listed.

        Args:
            config: The config.
            batch_files: The batches listed in files.
            now: Seconds since the Unix epoch.

        """
        self.error_logs.use(config.error_logs)
        # These change with uploads, not with polls, so usually they are the same objects as before.
        lists = (config, batch_files.batches, self.discovery.revision if config.discovery.enabled else None)
        if lists != self._lists:
            self._lists = lists
            self._list(config, batch_files)
            expectations = map(expectation, config.feeds)
            self.expected_since = {each: self.expected_since.get(each, now) for each in expectations}
        for key, listed in self.discovery.known.items():
            self._records[key].note_listed(listed)
        last_known = self._known = self.last_known()
        feeds = config.feeds_by_name

        def accepted(key: str) -> bool | None:
            batch = last_known[key]
            return False if batch is None else foresee_accepted(batch, feeds.get(self.watched[key].feed or ""))

        return keep(self.watched, config, last_known.get, accepted, self._awaits_records, now)

    def last_known(self) -> dict[str, Batch | None]:
        """Return each watched batch as it is last known, with some time in `modified` if it has finished."""
        return {key: record.dated(self.discovery.known.get(key)) for key, record in self._records.items()}

    def newest_accepted(self, config: Config, last_known: Mapping[str, Batch | None]) -> dict[str, NewestAccepted]:
        """Return the newest accepted batch of each feed of a config, by the rules of that config."""
        batches: dict[str, list[Batch]] = {feed.name: list(self._past.of_feed(feed.name)) for feed in config.feeds}
        expired = {key for key, listed in self.discovery.known.items() if listed.expired}
        for key, batch in last_known.items():
            feed, is_expired = self.watched[key].feed, key in expired or self._records[key].expired
            if batch is not None and feed in batches and (batch.status.finished or is_expired):
                batches[feed].append(batch)
        return {feed.name: newest_accepted(batches[feed.name], feed) for feed in config.feeds}

    def last_finished(self, last_known: Mapping[str, Batch | None]) -> dict[str, Batch]:
        """Return the newest finished batch of each feed, in the config or not, by when it was allocated."""
        return self._last_finished.find((self.watched[key].feed, batch) for key, batch in last_known.items())

    def count(self, config: Config, started: float) -> None:
        """Count for their feeds what is new of the watched batches.

        Args:
            config: The config.
            started: When the poll that will show it started.

        """
        feeds = config.feeds_by_name
        of_batches = self._feeds_of_batches - feeds.keys()
        self.counter.totals.begin([*feeds, *sorted(of_batches, key=lambda feed: (feed is None, feed or ""))], started)
        self.counter.totals.forget_unnamed(started - max(config.retention.succeeded, config.retention.failed))
        for key, record in self._records.items():
            listed = self.discovery.known.get(key)
            batch = record.last_known(None if listed is None else listed.batch)
            if batch is not None:
                feed = self.watched[key].feed
                log = None if record.log is None else record.log.log
                self.counter.look_at(key, feed, batch, log, feeds.get(feed or ""))
        self.counter.forget(self.watched)

    def replaced(self, config: Config) -> dict[str, bool]:
        """Return the batches that others replace, by ref in lower case, and whether one that does is accepted."""
        return replaced(
            [(self.watched[key], self._records[key].dated(self.discovery.known.get(key))) for key in self._replacing],
            config.feeds_by_name,
        )

    def records_of(self, kept: Kept) -> dict[str, Record]:
        """Return the record of each batch that is shown, by ref in lower case."""
        return {key: self._records[key] for key in kept.watched}

    def probed_record(self, key: str) -> Record:
        """Return the record of one batch. Of unwatched batches, only those probed last are remembered."""
        if key in self._records:
            return self._records[key]
        record = self._probed.setdefault(key, Record())
        self._probed.move_to_end(key)
        if len(self._probed) > MAX_REMEMBERED_PROBES:
            self.error_logs.forget(self._probed.popitem(last=False)[0])
        return record

    def forget_refusals(self) -> None:
        """Let the next plan retry refused details, however recent the last attempt."""
        for record in self._records.values():
            record.refused = None

    def _list(self, config: Config, batch_files: BatchLists) -> None:
        """Compute the watch list from the current lists."""
        self._warn_of_overruled(config, batch_files)
        # For batches that have left the list, use what the previous poll knew.
        before = {key: batch or self._known.get(key) for key, batch in self.last_known().items()}
        watched_before, records_before = self.watched, self._records
        if not config.discovery.enabled:
            self.discovery = Discovery()
        discovered = [reading.batch.ref for reading in self.discovery.known.values()]
        self.watched = watch(config, batch_files.batches.values(), discovered)
        self._records = {key: self._records.get(key) or self._probed.pop(key, None) or Record() for key in self.watched}
        self.error_logs.forget_all_but(self._records.keys() | self._probed.keys())
        self._replacing = [key for key, each in self.watched.items() if each.replaces]
        self._feeds_of_batches = {each.feed for each in self.watched.values()}
        for key, batch in before.items():
            feed = watched_before[key].feed
            if (
                batch is not None
                and feed is not None
                and (batch.status.finished or records_before[key].expired)
                and _is_listed_no_more(watched_before[key], self.watched.get(key))
            ):
                self._past.add(feed, batch)
                self._last_finished.add(feed, batch)
        self._past.forget_all_but(config.feeds_by_name)
        with_feed = {key: each.feed for key, each in self.watched.items() if each.feed is not None}
        self._last_finished.forget({*config.feeds_by_name, *with_feed.values()}, with_feed)

    def _awaits_records(self, key: str) -> bool:
        """Return whether the records of a batch count once its details are read, and the API does not refuse them."""
        record, listed = self._records[key], self.discovery.known.get(key)
        return (
            listed is not None
            and record.refused != listed.batch
            and not record.is_read(listed.batch)
            and self.counter.awaits_records(key, listed.batch)
        )

    def _warn_of_overruled(self, config: Config, batch_files: BatchLists) -> None:
        before, self._overruled = self._overruled, overruled(config, batch_files.batches)
        if new := sorted(self._overruled - before):
            logger.warning(
                "batches in a batch file differ in feed, labels or replaces from the config, which takes precedence",
                extra={"batches": len(new), "first_ref": new[0]},
            )


def _is_listed_no_more(before: Watched, now: Watched | None) -> bool:
    """Return whether a batch has left its list, even if discovery still shows it, but without a feed."""
    return now is None or (now.source is Source.DISCOVERY is not before.source and now.feed is None)


def _identity(config: Config) -> tuple[object, ...]:
    """Return what identifies an organisation: the region and the client key."""
    return config.api.base_url, config.api.basic_auth.username, config.api.basic_auth.username_file
