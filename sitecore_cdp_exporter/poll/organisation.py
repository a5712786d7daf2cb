"""What is remembered of an organisation of Sitecore CDP: its batches, its list, and how its API has answered.

Another organisation begins with a clean sheet. Nothing here locks: the poller calls it under its own lock.
"""

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.acceptance import (
    NewestAccepted,
    PastBatches,
    foresee_accepted,
    newest_accepted,
    replaced,
)
from sitecore_cdp_exporter.poll.backoff import CircuitBreaker
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.health import ApiHealth
from sitecore_cdp_exporter.poll.records import Record
from sitecore_cdp_exporter.poll.retention import Kept, keep
from sitecore_cdp_exporter.watch.watchlist import BatchLists, Watched, overruled, watch

if TYPE_CHECKING:
    from sitecore_cdp_exporter.api.errors import Reason

logger = logging.getLogger(__name__)

REMEMBERED_PROBES = 1000


class Organisation:
    """The memory of one organisation, from poll to poll.

    Attributes:
        breaker: When its API may be asked.
        health: Whether its API is up.
        discovery: Its list of batches; a new one while discovery is off.
        watched: What is listed, by ref in lower case, past its retention or not.
        list_failure: Why its list of batches could not be read last; None: it could, or was not asked for yet.
        api_last_success: When its API last answered as it should, in seconds since the Unix epoch; None: never.

    """

    def __init__(self, config: Config) -> None:
        self.breaker = CircuitBreaker()
        self.health = ApiHealth()
        self.discovery = Discovery()
        self.watched: dict[str, Watched] = {}
        self.list_failure: Reason | None = None
        self.api_last_success: float | None = None
        self._identity = _identity(config)
        self._records: dict[str, Record] = {}
        self._probed: OrderedDict[str, Record] = OrderedDict()
        self._known: dict[str, Batch | None] = {}
        self._past = PastBatches()
        self._overruled: set[str] = set()
        # The watched batches that replace others.
        self._replacing: list[str] = []
        # What `watched` was made of.
        self._lists: tuple[object, ...] = ()

    def is_of(self, config: Config) -> bool:
        """Tell whether a config is for this organisation."""
        return self._identity == _identity(config)

    def watch(self, config: Config, batch_files: BatchLists, now: float) -> Kept:
        """Bring the watch list up to date and return what is shown of it.

        What is watched no more is forgotten, save what is past its retention but still listed.

        Args:
            config: What is watched, and how.
            batch_files: The batches that files list.
            now: Seconds since the Unix epoch.

        """
        # What is listed changes with an upload, not with a poll. Mostly these are the same objects as before.
        lists = (config, batch_files.batches, self.discovery.revision if config.discovery.enabled else None)
        if lists != self._lists:
            self._lists = lists
            self._list(config, batch_files)
        for key, record in self._records.items():
            record.note_listed(self.discovery.known.get(key))
        last_known = self._known = self._last_known()
        feeds = config.feeds_by_name

        def accepted(key: str) -> bool | None:
            batch = last_known[key]
            return False if batch is None else foresee_accepted(batch, feeds.get(self.watched[key].feed or ""))

        return keep(self.watched, config, last_known.get, accepted, now)

    def newest_accepted(self, config: Config) -> dict[str, NewestAccepted]:
        """Return the newest accepted batch of each feed of a config, by the rules of that config."""
        batches: dict[str, list[Batch]] = {feed.name: list(self._past.of_feed(feed.name)) for feed in config.feeds}
        for key, batch in self._last_known().items():
            feed = self.watched[key].feed
            if batch is not None and feed in batches:
                batches[feed].append(batch)
        return {feed.name: newest_accepted(batches[feed.name], feed) for feed in config.feeds}

    def replaced(self, config: Config) -> dict[str, bool]:
        """Return the batches that others replace, by ref in lower case, and whether one that does is accepted."""
        return replaced(
            [(self.watched[key], self._records[key].dated(self.discovery.known.get(key))) for key in self._replacing],
            config.feeds_by_name,
        )

    def _last_known(self) -> dict[str, Batch | None]:
        return {key: record.dated(self.discovery.known.get(key)) for key, record in self._records.items()}

    def _list(self, config: Config, batch_files: BatchLists) -> None:
        """Take over what is listed now."""
        self._warn_of_overruled(config, batch_files)
        # What the list shows no more is taken from the poll before.
        before = {key: batch or self._known.get(key) for key, batch in self._last_known().items()}
        watched_before = self.watched
        if not config.discovery.enabled:
            self.discovery = Discovery()
        discovered = [reading.batch.ref for reading in self.discovery.known.values()]
        self.watched = watch(config, batch_files.batches.values(), discovered)
        self._replacing = [key for key, each in self.watched.items() if each.replaces]
        self._records = {key: self._records.get(key) or self._probed.pop(key, None) or Record() for key in self.watched}
        self._past.forget_all_but(config.feeds_by_name)
        for key, batch in before.items():
            feed = config.feeds_by_name.get(watched_before[key].feed or "")
            if key not in self.watched and batch is not None and feed is not None:
                self._past.add(feed.name, batch)

    def records_of(self, kept: Kept) -> dict[str, Record]:
        """Return the record of each batch that is shown, by ref in lower case."""
        return {key: self._records[key] for key in kept.watched}

    def probed_record(self, key: str) -> Record:
        """Return the record of one batch, watched or not; of the latter, the ones probed last are remembered."""
        if key in self._records:
            return self._records[key]
        record = self._probed.setdefault(key, Record())
        self._probed.move_to_end(key)
        if len(self._probed) > REMEMBERED_PROBES:
            self._probed.popitem(last=False)
        return record

    def forget_refusals(self) -> None:
        """Let the details that were refused be asked for again in the next plan, however long ago they were asked."""
        for record in self._records.values():
            record.refused = None

    def _warn_of_overruled(self, config: Config, batch_files: BatchLists) -> None:
        before, self._overruled = self._overruled, overruled(config, batch_files.batches)
        if new := sorted(self._overruled - before):
            logger.warning(
                "a batch file lists batches with a different feed, labels or replaces than the config, which counts",
                extra={"batches": len(new), "first_ref": new[0]},
            )


def _identity(config: Config) -> tuple[object, ...]:
    """Return what tells one organisation from another: the region and the client key."""
    return config.api.base_url, config.api.basic_auth.username, config.api.basic_auth.username_file
