"""Which batches are watched."""

from collections.abc import Iterable, Mapping

from sitecore_cdp_exporter.config import WatchedBatch


class Watchlist:
    """The watched batches, by their ref in lower case: a UUID is the same UUID in either case.

    Safe for use by many threads: the mapping is replaced, never changed.
    """

    def __init__(self, batches: Iterable[WatchedBatch] = ()) -> None:
        self._batches: Mapping[str, WatchedBatch] = {}
        self.replace(batches)

    @property
    def batches(self) -> Mapping[str, WatchedBatch]:
        """The watched batches in their order, by their ref in lower case."""
        return self._batches

    def replace(self, batches: Iterable[WatchedBatch]) -> None:
        """Watch these batches and no others."""
        self._batches = {batch.ref.lower(): batch for batch in batches}
