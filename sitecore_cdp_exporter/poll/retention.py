"""Retention: which batches of files and discovery are still shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.watch.watchlist import Source, Watched


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of the watch list that is shown.

    Attributes:
        watched: The batches to show, by ref in lower case.
        retired: The number of batches past their retention.
        dropped: The number of discovered batches beyond `discovery.max_batches`.

    """

    watched: Mapping[str, Watched] = field(default_factory=dict)
    retired: int = 0
    dropped: int = 0


def keep(
    watched: Mapping[str, Watched],
    config: Config,
    last_known: Callable[[str], Batch | None],
    is_accepted: Callable[[str], bool | None],
    is_awaited: Callable[[str], bool],
    now: float,
) -> Kept:
    """Drop batches past their retention, and discovered batches beyond the limit.

    Batches of the config are always kept, and so is the newest accepted batch of each feed. Because dropped batches are
    never read, so are newer ones that may still turn out to be accepted, and those whose records still have to count.

    Args:
        watched: All batches, by ref in lower case.
        config: Retention and limit.
        last_known: Returns a batch as last known.
        is_accepted: Returns whether a batch is accepted, or will be. None: its details must be read first.
        is_awaited: Returns whether the records of a batch still have to count.
        now: Seconds since the Unix epoch.

    """
    newest = _newest_of_feeds(watched, last_known, lambda key: is_accepted(key) is True)
    newest |= _newest_of_feeds(watched, last_known, lambda key: is_accepted(key) is not False)
    kept = {
        key: each
        for key, each in watched.items()
        if each.source is Source.CONFIG
        or key in newest
        or not _is_over(last_known(key), config, now)
        or is_awaited(key)
    }
    retired = len(watched) - len(kept)
    # Those that are awaited push no other ones out.
    dropped = [key for key in _beyond(config.discovery.max_batches, kept, newest, last_known) if not is_awaited(key)]
    for key in dropped:
        del kept[key]
    return Kept(kept, retired, len(dropped))


def _beyond(
    limit: int, kept: Mapping[str, Watched], newest: set[str], last_known: Callable[[str], Batch | None]
) -> list[str]:
    """Return the discovered batches to drop: old successes first, then old failures.

    Unfinished batches are never dropped, nor the newest of each feed: the limit must not make a feed look overdue.
    """
    discovered = [key for key, each in kept.items() if each.source is Source.DISCOVERY]
    if len(discovered) <= limit:
        return []
    finished = sorted(
        (batch.status is not BatchStatus.SUCCESS, batch.modified or 0.0, key)
        for key in discovered
        if key not in newest and (batch := last_known(key)) is not None and batch.status.finished
    )
    return [key for _, _, key in finished[: len(discovered) - limit]]


def _newest_of_feeds(
    watched: Mapping[str, Watched], last_known: Callable[[str], Batch | None], counts: Callable[[str], bool]
) -> set[str]:
    newest: dict[str, tuple[float, str]] = {}
    for key, each in watched.items():
        batch = last_known(key)
        if each.feed is not None and batch is not None and batch.modified is not None and counts(key):
            candidate = (batch.modified, key)
            newest[each.feed] = max(candidate, newest.get(each.feed, candidate))
    return {key for _, key in newest.values()}


def _is_over(batch: Batch | None, config: Config, now: float) -> bool:
    if batch is None or not batch.status.finished or batch.modified is None:
        return False
    succeeded = batch.status is BatchStatus.SUCCESS
    return batch.modified + (config.retention.succeeded if succeeded else config.retention.failed) <= now
