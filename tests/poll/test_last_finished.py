"""Which finished batch of a feed is its newest."""

from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.poll.last_finished import LastFinished
from tests.fake_api import ref

OLD = Batch(ref=ref(1), status=BatchStatus.SUCCESS, created=100.0, modified=900.0)
NEW = Batch(ref=ref(10).upper(), status=BatchStatus.ERROR, created=200.0, modified=300.0)


@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
def test_the_batch_that_was_allocated_last_counts_whichever_finished_last(order: tuple[Batch, ...]) -> None:
    assert LastFinished().find([("guests", batch) for batch in order]) == {"guests": NEW}


def test_each_feed_has_its_own_and_batches_without_a_feed_have_none() -> None:
    known = [("guests", OLD), ("orders", NEW), (None, replace(NEW, ref=ref(3), created=999.0)), ("hourly", None)]
    assert LastFinished().find(known) == {"guests": OLD, "orders": NEW}


@pytest.mark.parametrize("status", [status for status in BatchStatus if not status.finished])
def test_a_batch_that_is_under_way_is_none(status: BatchStatus) -> None:
    newer = replace(NEW, ref=ref(3), status=status, created=999.0)
    assert LastFinished().find([("guests", OLD), ("guests", newer)]) == {"guests": OLD}


def test_without_createdat_modifiedat_decides() -> None:
    undated = replace(NEW, created=None, modified=150.0)
    assert LastFinished().find([("guests", undated), ("guests", OLD)]) == {"guests": undated}


def test_it_is_remembered_when_it_is_watched_no_more() -> None:
    last_finished = LastFinished()
    last_finished.add("guests", NEW)
    last_finished.add("guests", replace(OLD, status=BatchStatus.PROCESSING, created=999.0))
    last_finished.forget({"guests", None}, watched=[])
    assert last_finished.find([("guests", OLD)]) == {"guests": NEW}
    newer = replace(OLD, created=201.0)
    assert last_finished.find([("guests", newer)]) == {"guests": newer}


def test_of_the_same_batch_the_last_state_counts() -> None:
    last_finished = LastFinished()
    last_finished.add("guests", NEW)
    changed = replace(NEW, status=BatchStatus.SUCCESS)
    last_finished.add("guests", changed)
    assert last_finished.find([]) == {"guests": changed}


def test_it_is_forgotten_with_its_feed_and_when_it_is_watched_again() -> None:
    last_finished = LastFinished()
    last_finished.add("guests", NEW)
    last_finished.add("orders", OLD)
    last_finished.forget({"guests"}, watched=[])
    assert last_finished.find([]) == {"guests": NEW}
    # It may have another feed by now, or be uploaded anew.
    last_finished.forget({"guests"}, watched=[ref(10)])
    assert last_finished.find([]) == {}
