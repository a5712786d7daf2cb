"""When a failed batch counts as superseded by another, accepted one. Pure."""

from collections.abc import Iterable, Mapping

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, foresee_accepted
from sitecore_cdp_exporter.watch.watchlist import Watched


def is_superseded(
    failed: Batch, feed: FeedConfig | None, newest: NewestAccepted | None, *, replaced: bool | None
) -> bool | None:
    """Return whether another batch supersedes a failed one. None if neither the config nor any batch provides for that.

    Args:
        failed: A finished batch that is not accepted.
        feed: Its feed.
        newest: The newest accepted batch of the feed.
        replaced: Whether a batch that replaces this one is accepted. None: no batch replaces it.

    """
    if feed is None or newest is None or not feed.next_success_resolves:
        return replaced
    # Parallel uploads finish in any order, so the allocation counts.
    return bool(replaced) or (failed.created is not None and newest.created > failed.created)


def replaced(replacing: Iterable[tuple[Watched, Batch | None]], feeds: Mapping[str, FeedConfig]) -> dict[str, bool]:
    """Return, for each batch that others replace, by ref in lower case, whether one of those is accepted."""
    found: dict[str, bool] = {}
    for watched, batch in replacing:
        accepted = batch is not None and bool(foresee_accepted(batch, feeds.get(watched.feed or "")))
        for ref in watched.replaces:
            found[ref] = found.get(ref) or accepted
    return found
