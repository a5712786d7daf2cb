"""When a failed batch counts as superseded: another was accepted that makes good for it. Pure."""

from collections.abc import Iterable, Mapping

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, foresee_accepted
from sitecore_cdp_exporter.watch.watchlist import Watched


def is_superseded(
    failed: Batch, feed: FeedConfig | None, newest: NewestAccepted | None, *, replaced: bool | None
) -> bool | None:
    """Return whether another batch makes good for a failed one; None: neither the config nor a batch asks for that.

    Args:
        failed: A finished batch that is not accepted.
        feed: Its feed.
        newest: The newest accepted batch of that.
        replaced: Whether a batch that says that it replaces this one is accepted; None: none says so.

    """
    if feed is None or newest is None or not feed.next_success_resolves:
        return replaced
    # Parallel uploads end in any order, so it is the allocation that counts.
    return bool(replaced) or (failed.created is not None and newest.created > failed.created)


def replaced(replacing: Iterable[tuple[Watched, Batch | None]], feeds: Mapping[str, FeedConfig]) -> dict[str, bool]:
    """Return the batches that others replace, by ref in lower case, and whether one that does is accepted."""
    found: dict[str, bool] = {}
    for watched, batch in replacing:
        accepted = batch is not None and bool(foresee_accepted(batch, feeds.get(watched.feed or "")))
        for ref in watched.replaces:
            found[ref] = found.get(ref, False) or accepted
    return found
