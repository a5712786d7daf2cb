"""One walk through the list: what it asks for, and how much it lets the list move."""

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.poll.walk import FINISHED, MAX_BATCHES, PAGE_SIZE, PageRequest, Walk
from tests.fake_api import ref


def first(limit: int = PAGE_SIZE) -> PageRequest:
    return PageRequest(FINISHED, 0, limit)


def page(total: int | None, *numbers: int, length: int | None = None, unreadable: int = 0) -> BatchPage:
    """Give a page that shows these batches, in as many places."""
    batches = tuple(Batch(ref=ref(number).upper(), status=BatchStatus.SUCCESS) for number in numbers)
    return BatchPage(total, len(numbers) if length is None else length, batches, unreadable)


def test_a_walk_begins_with_one_page_and_is_complete_when_none_is_left() -> None:
    walk = Walk(FINISHED)
    assert (walk.begun, walk.complete, walk.received, walk.total) == (False, False, 0, 0)
    assert [*walk.outstanding] == [first()]
    (rest,) = walk.receive(first(), page(3, 10, 11))
    assert (walk.begun, walk.complete, walk.received, walk.total) == (True, False, 2, 3)
    assert walk.receive(rest, page(3, 12)) == []
    assert (walk.complete, walk.received, walk.problem) == (True, 3, None)
    assert walk.shown == {ref(10), ref(11), ref(12)}, "in lower case, as everybody compares them"


def test_the_pages_of_a_list_are_as_long_as_the_server_grants() -> None:
    walk = Walk(FINISHED)
    assert walk.receive(first(), page(7, 1, 2, 3)) == [PageRequest(FINISHED, 3), PageRequest(FINISHED, 6)]
    # What a page leaves out is asked for from there, up to where the next one begins.
    assert walk.receive(PageRequest(FINISHED, 3), page(7, 4)) == [PageRequest(FINISHED, 4, 2)]
    # The count has grown: only what is behind all that was asked for is new.
    assert walk.receive(PageRequest(FINISHED, 6), page(11, 7, 8, 9)) == [PageRequest(FINISHED, 9)]
    assert walk.receive(PageRequest(FINISHED, 4, 2), page(11, 5)) == [PageRequest(FINISHED, 5, 1)]
    assert [*walk.outstanding] == [PageRequest(FINISHED, 9), PageRequest(FINISHED, 5, 1)]


def test_an_empty_page_does_not_cancel_the_requests_before_it() -> None:
    walk = Walk(FINISHED)
    before, empty, behind = walk.receive(first(), page(8, 1, 2))
    assert walk.receive(empty, page(8)) == []
    assert [*walk.outstanding] == [before]
    assert behind not in walk.outstanding


@pytest.mark.parametrize(
    ("total", "is_wrong"), [(MAX_BATCHES, False), (MAX_BATCHES + 1, True), (2, False), (1, True), (None, True)]
)
def test_a_count_is_wrong_beyond_what_an_organisation_can_have_or_below_what_was_shown(
    total: int | None,
    is_wrong: bool,  # noqa: FBT001  A column.
) -> None:
    walk = Walk(FINISHED)
    more = walk.receive(first(), page(total, 1, 2, length=2))
    assert (walk.problem == "totalCount is missing or wrong") is is_wrong
    assert len(more) == (1 if is_wrong else ((total or 0) - 1) // 2)


def test_without_a_count_pages_are_read_up_to_the_most_that_there_can_be() -> None:
    walk, half = Walk(FINISHED), MAX_BATCHES // 2
    (second,) = walk.receive(first(), page(None, 1, length=half))
    assert second == PageRequest(FINISHED, half)
    assert walk.receive(second, page(None, 2, length=half)) == []
    assert walk.complete


def test_a_page_without_anything_new_ends_a_list_without_a_count() -> None:
    walk = Walk(FINISHED)
    (second,) = walk.receive(first(), page(None, 1, 2))
    assert walk.receive(second, page(None, 2)) == []
    assert walk.complete


@pytest.mark.parametrize(("page_size", "seen_again", "ends"), [(1, 1, True), (2, 1, False), (2, 2, True), (3, 2, True)])
def test_a_page_may_repeat_one_batch_that_was_shifted_to_it_but_no_more(
    page_size: int,
    seen_again: int,
    ends: bool,  # noqa: FBT001  A column.
) -> None:
    walk = Walk(FINISHED)
    shown = range(page_size)
    second, *_ = walk.receive(first(), page(9, *shown))
    walk.receive(second, page(9, *shown[:seen_again]))
    assert (walk.problem == "a page shows nothing but what other pages show") is ends
    assert walk.complete is ends


@pytest.mark.parametrize(
    ("totals", "problem"),
    [
        # Six batches are shown by three pages, one of them twice: two changes are allowed for.
        ((8, 8, 8), None),
        ((9, 9, 9), "totalCount is 9, but the pages show 6 batches"),
        # The count may move meanwhile.
        ((7, 8, 9), None),
        ((9, 8, 7), None),
    ],
)
def test_one_change_is_allowed_for_between_every_two_pages_when_a_batch_was_shown_twice(
    totals: tuple[int, int, int], problem: str | None
) -> None:
    walk = Walk(FINISHED)
    requests = [first(), PageRequest(FINISHED, 3), PageRequest(FINISHED, 6)]
    for request, total, numbers in zip(requests, totals, [(1, 2, 3), (3, 4, 5), (6,)], strict=True):
        walk.receive(request, page(total, *numbers))
    walk.end()
    assert walk.problem == problem


@pytest.mark.parametrize(("total", "problem"), [(3, None), (4, "totalCount is 4, but the pages show 3 batches")])
def test_no_change_is_allowed_for_when_each_batch_was_shown_once(total: int, problem: str | None) -> None:
    walk = Walk(FINISHED)
    (second, *_) = walk.receive(first(), page(total, 1, 2))
    walk.receive(second, page(total, 3))
    walk.end()
    assert walk.problem == problem


@pytest.mark.parametrize(("again", "problem"), [(13, "totalCount is 9, but the pages show 12 batches"), (1, None)])
def test_a_list_that_shows_more_than_it_counts_does_not_add_up_unless_it_moved(again: int, problem: str | None) -> None:
    walk = Walk(FINISHED)
    middle, end = walk.receive(first(), page(9, 1, 2, 3))
    (rest,) = walk.receive(middle, page(7, 4))
    # The server does not heed the limit.
    walk.receive(rest, page(9, 5, 6, 7, 8, again))
    walk.receive(end, page(9, 10, 11, 12))
    assert walk.complete
    assert walk.problem == problem


def test_an_unreadable_item_on_a_page_of_its_own_ends_nothing() -> None:
    walk = Walk(FINISHED)
    second, third = walk.receive(first(), page(3, 1))
    walk.receive(second, page(3, length=1, unreadable=1))
    assert [*walk.outstanding] == [third]
    assert walk.problem == "unreadable items: 1"


def test_a_list_that_shrinks_before_its_last_page_is_not_a_problem() -> None:
    walk = Walk(FINISHED)
    (second,) = walk.receive(first(), page(3, 1, 2))
    walk.receive(second, page(1))
    assert (walk.complete, walk.problem) == (True, None)


def test_the_unreadable_items_of_all_pages_are_counted() -> None:
    walk = Walk(FINISHED)
    (second,) = walk.receive(first(), page(4, 1, length=2, unreadable=1))
    walk.receive(second, page(4, 3, length=2, unreadable=1))
    assert walk.unreadable == 2
    assert walk.problem == "unreadable items: 2"
