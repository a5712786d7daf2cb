"""Retention: which batches of files and discovery are still shown."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.watch.watchlist import Source, Watched

# While the API answers for no batch, more and more of them await their records. Beyond this many, the oldest are
# dropped, and their records never count.
MAX_AWAITED = 1000


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
    never read, so are newer ones that may still turn out to be accepted, and the newest of those whose records still
    have to count. The latter push no others out.

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
    over = [
        key
        for key, each in watched.items()
        if each.source is not Source.CONFIG and key not in newest and _is_over(last_known(key), config, now)
    ]
    beyond = _beyond(config.discovery.max_batches, _without(watched, over), newest, last_known)
    awaited = _newest_awaited([*over, *beyond], is_awaited, last_known)
    retired = [key for key in over if key not in awaited]
    dropped = [key for key in beyond if key not in awaited]
    return Kept(_without(watched, [*retired, *dropped]), len(retired), len(dropped))


def _without(watched: Mapping[str, Watched], keys: Iterable[str]) -> Mapping[str, Watched]:
    left_out = set(keys)
    return {key: each for key, each in watched.items() if key not in left_out} if left_out else watched


def _newest_awaited(
    keys: Iterable[str], is_awaited: Callable[[str], bool], last_known: Callable[[str], Batch | None]
) -> Collection[str]:
    awaited = {key: last_known(key) for key in keys if is_awaited(key)}
    if len(awaited) <= MAX_AWAITED:
        return awaited
    newest_first = sorted(
        awaited, key=lambda key: 0.0 if (batch := awaited[key]) is None else batch.modified or 0.0, reverse=True
    )
    return set(newest_first[:MAX_AWAITED])


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
