"""The newest finished batch of each feed, by allocation. Pure."""

from collections.abc import Collection, Iterable

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.poll.walk import FINISHED


class LastFinished:
    """Finds the newest finished batch of each feed, and remembers it when it is no longer watched."""

    def __init__(self) -> None:
        self._past: dict[str, Batch] = {}

    def add(self, feed: str, batch: Batch) -> None:
        """Remember a batch that is no longer watched for its feed."""
        _take_newer(self._past, feed, batch)

    def forget(self, feeds: Collection[str | None], watched: Collection[str]) -> None:
        """Forget all other feeds, and batches that are watched again, given by ref."""
        self._past = {
            feed: batch for feed, batch in self._past.items() if feed in feeds and batch.ref.lower() not in watched
        }

    def find(self, known: Iterable[tuple[str | None, Batch | None]]) -> dict[str, Batch]:
        """Return the newest finished batch of each feed that has one.

        Args:
            known: The feed of each watched batch, and the batch as last known.

        """
        newest = dict(self._past)
        for feed, batch in known:
            if feed is not None and batch is not None:
                _take_newer(newest, feed, batch)
        return newest


def _take_newer(newest: dict[str, Batch], feed: str, batch: Batch) -> None:
    if batch.status in FINISHED and (feed not in newest or _allocated(batch) >= _allocated(newest[feed])):
        newest[feed] = batch


def _allocated(batch: Batch) -> float:
    return batch.created or batch.modified or 0.0
