"""Until when a finished batch is shown. What goes beyond max_batches is in test_poller_discovery.py."""

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import Config, Discovery
from sitecore_cdp_exporter.poll import retention
from sitecore_cdp_exporter.poll.retention import keep
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from tests.fake_api import ref

NOW = 1.75e9
CONFIG = Config.model_validate(
    {"api": {"base_url": "https://api.example"}, "retention": {"succeeded": 100.0, "failed": 300.0}}
)


@pytest.mark.parametrize(
    ("status", "age", "is_kept"),
    [
        (BatchStatus.SUCCESS, 99.0, True),
        (BatchStatus.SUCCESS, 100.0, False),
        (BatchStatus.ERROR, 299.0, True),
        (BatchStatus.ERROR, 300.0, False),
        (BatchStatus.PROCESSING, 300.0, True),
    ],
)
def test_a_batch_of_a_file_is_shown_until_its_retention_is_over(
    status: BatchStatus,
    age: float,
    is_kept: bool,  # noqa: FBT001  A column.
) -> None:
    batch = Batch(ref=ref(1), status=status, modified=NOW - age)
    watched = {ref(1): Watched(ref(1), source=Source.FILE)}
    kept = keep(watched, CONFIG, lambda _: batch, lambda _: None, lambda _: False, NOW)
    assert (len(kept.watched), kept.retired) == (is_kept, not is_kept)


@pytest.mark.parametrize("max_batches", [1, 500])
def test_while_no_details_can_be_read_a_bounded_number_of_batches_awaits_its_records(
    max_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_AWAITED", 3)
    config = CONFIG.model_copy(update={"discovery": Discovery(max_batches=max_batches)})
    watched = {ref(number): Watched(ref(number), source=Source.DISCOVERY) for number in range(10)}
    # They are older, the greater their number; all but the newest two are past their retention.
    batches = {
        ref(number): Batch(ref=ref(number), status=BatchStatus.SUCCESS, modified=NOW - 80.0 - 10.0 * number)
        for number in range(10)
    }
    kept = keep(watched, config, batches.get, lambda _: True, lambda _: True, NOW)
    shown = min(max_batches, 2)
    assert [*kept.watched] == [ref(number) for number in range(shown + 3)]
    assert (len(kept.watched), kept.retired + kept.dropped) == (shown + 3, 10 - shown - 3)
