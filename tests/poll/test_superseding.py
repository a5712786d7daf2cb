"""When a failed batch counts as superseded. What scrapes show of it is in test_acceptance.py."""

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, newest_accepted
from sitecore_cdp_exporter.poll.superseding import is_superseded, replaced
from sitecore_cdp_exporter.watch.watchlist import Watched
from tests.fake_api import ref

FULL_SNAPSHOTS = FeedConfig(name="guests", next_success_resolves=True)
NEWEST = NewestAccepted(modified=20.0, created=10.0)


def failed(created: float | None) -> Batch:
    return Batch(ref=ref(1), status=BatchStatus.ERROR, created=created)


@pytest.mark.parametrize(("created", "superseded"), [(None, False), (9.0, True), (10.0, False), (11.0, False)])
def test_a_later_batch_supersedes_one_that_was_allocated_before_it(
    created: float | None,
    superseded: bool,  # noqa: FBT001  A column.
) -> None:
    assert is_superseded(failed(created), FULL_SNAPSHOTS, NEWEST, replaced=None) is superseded


def test_an_accepted_batch_whose_allocation_is_not_known_supersedes_nothing() -> None:
    newest = newest_accepted([Batch(ref=ref(2), status=BatchStatus.SUCCESS, modified=2.0)], FULL_SNAPSHOTS)
    assert newest == NewestAccepted(modified=2.0, created=0.0, finished=2.0)
    assert is_superseded(failed(0.5), FULL_SNAPSHOTS, newest, replaced=None) is False


@pytest.mark.parametrize("replaced", [None, False, True])
def test_where_the_next_success_does_not_count_only_what_replaces_a_batch_supersedes_it(
    replaced: bool | None,  # noqa: FBT001  A column.
) -> None:
    for feed in (None, FeedConfig(name="guests")):
        assert is_superseded(failed(9.0), feed, NEWEST, replaced=replaced) is replaced


@pytest.mark.parametrize(("replaced", "created"), [(True, 11.0), (False, 9.0), (True, 9.0)])
def test_a_later_batch_and_one_that_replaces_it_are_each_enough(
    replaced: bool,  # noqa: FBT001  A column.
    created: float,
) -> None:
    assert is_superseded(failed(created), FULL_SNAPSHOTS, NEWEST, replaced=replaced) is True


@pytest.mark.parametrize(
    ("statuses", "is_replaced"),
    [
        ([None], False),
        ([BatchStatus.PROCESSING], False),
        ([BatchStatus.SUCCESS, BatchStatus.ERROR], True),
        ([BatchStatus.ERROR, BatchStatus.SUCCESS], True),
        ([BatchStatus.ERROR, BatchStatus.ERROR], False),
    ],
)
def test_of_several_batches_that_replace_one_it_is_enough_that_one_is_accepted(
    statuses: list[BatchStatus | None],
    is_replaced: bool,  # noqa: FBT001  A column.
) -> None:
    replacing = [
        (
            Watched(ref(number), replaces=frozenset({ref(1)})),
            None if status is None else Batch(ref=ref(number), status=status),
        )
        for number, status in enumerate(statuses, 2)
    ]
    assert replaced(replacing, {}) == {ref(1): is_replaced}
