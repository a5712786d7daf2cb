"""The list of batches, read to its true end whatever the pages do."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.poll.discovery import (
    FINISHED,
    MOST_BATCHES,
    SECONDS_BETWEEN_WALKS,
    UNFINISHED,
    BrokenListError,
    Discovery,
    PageRequest,
)
from tests.fake_api import ref

POLLED = 1.75e9


def listed(number: int, status: BatchStatus = BatchStatus.SUCCESS, modified: float = 0.0) -> Batch:
    return Batch(ref=ref(number), status=status, created=float(number), modified=modified)


class Server:
    """The list endpoint: filters, pages, newest first, and grants at most `largest_page`."""

    def __init__(self, batches: Sequence[Batch], largest_page: int = 100) -> None:
        self.batches = list(batches)
        self.largest_page = largest_page
        self.requests: list[PageRequest] = []

    def answer(self, request: PageRequest) -> BatchPage:
        self.requests.append(request)
        matching = [batch for batch in reversed(self.batches) if batch.status in request.statuses]
        page = matching[request.offset :][: min(request.limit, self.largest_page)]
        return BatchPage(len(matching), len(page), tuple(page))

    def change(self, number: int, **fields: object) -> None:
        index = next(index for index, batch in enumerate(self.batches) if batch.ref == ref(number))
        self.batches[index] = replace(self.batches[index], **fields)  # type: ignore[arg-type]


def read(
    discovery: Discovery,
    server: Server,
    now: float = 0.0,
    choose: Callable[[int], int] = lambda _: 0,
    between: Callable[[], object] = lambda: None,
) -> int:
    """Read the list as the poller does, answering the requests in any order; return how many were made."""
    before = len(server.requests)
    requests = discovery.begin(now)
    while requests and not discovery.complete:
        request = requests.pop(choose(len(requests)))
        requests += discovery.receive(request, server.answer(request), now, POLLED)
        between()
    assert discovery.complete
    return len(server.requests) - before


def known(discovery: Discovery) -> dict[str, BatchStatus]:
    return {key: reading.batch.status for key, reading in discovery.known.items()}


statuses = st.sampled_from(UNFINISHED + FINISHED)


@given(st.lists(statuses, max_size=60), st.integers(1, 20), st.data())
def test_every_batch_is_found_whatever_page_the_server_grants_and_in_whatever_order_pages_come(
    present: list[BatchStatus], largest_page: int, data: st.DataObject
) -> None:
    server = Server([listed(number, status) for number, status in enumerate(present)], largest_page)
    discovery = Discovery()
    read(discovery, server, choose=lambda count: data.draw(st.integers(0, count - 1)))
    assert known(discovery) == {ref(number): status for number, status in enumerate(present)}
    assert discovery.totals == {status: Counter(present)[status] for status in UNFINISHED + FINISHED}
    assert set(discovery.seen_unfinished) == {
        ref(number) for number, status in enumerate(present) if status in UNFINISHED
    }


@pytest.mark.parametrize(
    ("unfinished", "finished", "first", "quiet"),
    [(0, 0, 2, 2), (50, 950, 11, 2), (250, 950, 13, 4), (1, 10000, 101, 2)],
)
def test_a_quiet_list_is_read_with_few_requests(unfinished: int, finished: int, first: int, quiet: int) -> None:
    server = Server(
        [
            listed(number, BatchStatus.PROCESSING if number < unfinished else BatchStatus.SUCCESS)
            for number in range(unfinished + finished)
        ]
    )
    discovery = Discovery()
    assert read(discovery, server) == first
    assert read(discovery, server) == quiet
    assert discovery.totals[BatchStatus.SUCCESS] == finished


def test_after_ten_minutes_the_finished_are_read_again() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    assert read(discovery, server, now=0) == 4
    assert read(discovery, server, now=SECONDS_BETWEEN_WALKS - 1) == 2
    assert read(discovery, server, now=SECONDS_BETWEEN_WALKS) == 4


def test_a_change_deep_in_the_list_is_found_at_the_next_walk() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    read(discovery, server, now=0)
    server.change(3, status=BatchStatus.ERROR, modified=9.0)
    read(discovery, server, now=SECONDS_BETWEEN_WALKS)
    assert known(discovery)[ref(3)] is BatchStatus.ERROR


def test_batches_that_finish_are_found_at_once() -> None:
    server = Server(
        [listed(number, BatchStatus.PROCESSING if number < 50 else BatchStatus.SUCCESS) for number in range(1000)]
    )
    discovery = Discovery()
    read(discovery, server)
    server.change(7, status=BatchStatus.ERROR)
    server.change(8, status=BatchStatus.SUCCESS)
    assert read(discovery, server) == 1 + 10
    assert known(discovery)[ref(7)] is BatchStatus.ERROR
    assert known(discovery)[ref(8)] is BatchStatus.SUCCESS
    assert read(discovery, server) == 2


def test_batches_that_finish_on_the_first_page_need_no_other_page() -> None:
    server = Server(
        [listed(number, BatchStatus.PROCESSING if number >= 995 else BatchStatus.SUCCESS) for number in range(1000)]
    )
    discovery = Discovery()
    read(discovery, server)
    server.change(996, status=BatchStatus.ERROR)
    server.batches.append(listed(1000, BatchStatus.CORRUPTED))
    assert read(discovery, server) == 2
    assert known(discovery)[ref(996)] is BatchStatus.ERROR
    assert known(discovery)[ref(1000)] is BatchStatus.CORRUPTED, "nobody has seen it unfinished"
    expected = {BatchStatus.PROCESSING: 4, BatchStatus.SUCCESS: 995, BatchStatus.ERROR: 1, BatchStatus.CORRUPTED: 1}
    assert {status: count for status, count in discovery.totals.items() if count} == expected
    assert read(discovery, server) == 2


def test_a_list_that_grows_by_more_than_its_first_page_shows_is_read_to_its_end() -> None:
    server = Server([listed(number) for number in range(1000)])
    discovery = Discovery()
    read(discovery, server)
    server.batches.insert(0, listed(5000, BatchStatus.ERROR))
    server.batches.append(listed(5001))
    assert read(discovery, server) == 1 + 11
    assert known(discovery)[ref(5000)] is BatchStatus.ERROR


def test_batches_that_become_too_old_for_the_list_cost_nothing_and_are_gone_after_two_walks() -> None:
    server = Server([listed(number) for number in range(1000)])
    discovery = Discovery()
    read(discovery, server)
    del server.batches[:3]
    assert read(discovery, server) == 2
    assert discovery.totals[BatchStatus.SUCCESS] == 1000, "which ones are missing is not known yet"
    read(discovery, server, now=SECONDS_BETWEEN_WALKS)
    assert discovery.totals[BatchStatus.SUCCESS] == 997
    assert ref(2) in discovery.known
    read(discovery, server, now=2 * SECONDS_BETWEEN_WALKS)
    assert ref(2) not in discovery.known


def test_a_batch_that_takes_the_place_of_one_that_became_too_old_is_found_at_the_next_walk() -> None:
    server = Server([listed(number) for number in range(1000)])
    discovery = Discovery()
    read(discovery, server)
    server.batches[3] = listed(5000)
    assert read(discovery, server) == 2
    read(discovery, server, now=SECONDS_BETWEEN_WALKS)
    assert ref(5000) in discovery.known


def test_a_batch_that_finishes_between_two_pages_is_finished_and_counted_once() -> None:
    server = Server([listed(1, BatchStatus.PROCESSING), listed(2)])
    discovery = Discovery()
    read(discovery, server, between=lambda: server.change(1, status=BatchStatus.SUCCESS))
    assert known(discovery)[ref(1)] is BatchStatus.SUCCESS
    assert not discovery.seen_unfinished
    assert sum(discovery.totals.values()) == 2


def test_a_batch_is_gone_when_two_walks_have_not_seen_it() -> None:
    server = Server([listed(number) for number in range(5)])
    discovery = Discovery()
    read(discovery, server)
    del server.batches[0]
    read(discovery, server)
    assert ref(0) in discovery.known
    assert discovery.totals[BatchStatus.SUCCESS] == 4
    read(discovery, server)
    assert ref(0) not in discovery.known


def test_an_unfinished_batch_that_one_walk_has_missed_comes_back() -> None:
    batch = listed(1, BatchStatus.PROCESSING)
    server = Server([batch])
    discovery = Discovery()
    read(discovery, server)
    server.batches = []
    read(discovery, server)
    assert known(discovery) == {ref(1): BatchStatus.PROCESSING}
    assert not discovery.seen_unfinished, "it must be asked for itself"
    server.batches = [batch]
    read(discovery, server)
    server.batches = []
    read(discovery, server)
    assert ref(1) in discovery.known, "the walks must be one after the other"


@given(st.lists(st.sampled_from(["add", "remove", "finish"]), max_size=12), st.integers(3, 10))
def test_batches_that_come_and_go_while_pages_are_read_do_not_hide_those_that_stay(
    changes: list[str], largest_page: int
) -> None:
    """New batches lead the list and old ones leave its end, so those in between may be seen twice but not missed."""
    server = Server([listed(number) for number in range(10, 40)], largest_page)
    rest = iter(changes)

    def change() -> None:
        match next(rest, None):
            case "add":
                server.batches.append(listed(max(int(batch.created or 0) for batch in server.batches) + 1))
            case "remove":
                del server.batches[0]
            case "finish":
                server.batches.append(listed(1000 + len(server.batches), BatchStatus.ERROR))

    discovery = Discovery()
    read(discovery, server, between=change)
    stayed = {batch.ref for batch in server.batches if 10 <= (batch.created or 0) < 40}
    assert stayed <= set(discovery.known)


def test_an_empty_page_is_the_end_whatever_the_count_says() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (more,) = discovery.receive(request, BatchPage(2, 1, (listed(1, BatchStatus.PROCESSING),)), 0, POLLED)
    (finished,) = discovery.receive(more, BatchPage(7, 0, ()), 0, POLLED)
    assert finished.statuses == FINISHED
    assert discovery.receive(finished, BatchPage(0, 0, ()), 0, POLLED) == []
    assert discovery.complete


def test_a_list_that_counts_batches_and_shows_none_is_broken() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    with pytest.raises(BrokenListError):
        discovery.receive(request, BatchPage(7, 0, ()), 0, POLLED)


def test_a_malformed_item_keeps_its_place_in_the_paging() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(0, 0, ()), 0, POLLED)
    (more,) = discovery.receive(finished, BatchPage(3, 2, (listed(1),)), 0, POLLED)
    assert more.offset == 2
    assert discovery.receive(more, BatchPage(3, 1, (listed(3),)), 0, POLLED) == []
    assert set(discovery.known) == {ref(1), ref(3)}


def test_a_count_that_can_not_be_is_refused() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    with pytest.raises(BrokenListError):
        discovery.receive(request, BatchPage(MOST_BATCHES + 1, 1, (listed(1),)), 0, POLLED)


def test_a_list_that_is_cut_keeps_what_it_has_shown() -> None:
    server = Server([listed(1), listed(2, BatchStatus.PROCESSING)])
    discovery = Discovery()
    read(discovery, server)
    discovery.begin(0)
    assert not discovery.complete
    assert set(discovery.known) == {ref(1), ref(2)}
    assert not discovery.seen_unfinished


def cut(discovery: Discovery, server: Server, requests: int, now: float = 0.0) -> list[PageRequest]:
    """Read so many pages, as a poll does that has no time for more; return the requests that it leaves unanswered."""
    left = discovery.begin(now)
    for _ in range(requests):
        request = left.pop(0)
        left += discovery.receive(request, server.answer(request), now, POLLED)
    return left


def test_a_walk_that_is_cut_goes_on_in_the_next_poll() -> None:
    server = Server([listed(number) for number in range(1000)] + [listed(1000, BatchStatus.PROCESSING)])
    discovery = Discovery()
    for pages in (3, 3, 3):
        cut(discovery, server, requests=pages)
        assert not discovery.complete
        assert set(discovery.seen_unfinished) == {ref(1000)}
    assert len(discovery.known) == 1 + 600, "in each poll one page is of the unfinished"
    assert read(discovery, server) == 1 + 4
    assert discovery.totals[BatchStatus.SUCCESS] == 1000
    assert read(discovery, server) == 2


def test_a_walk_that_was_cut_long_ago_begins_anew() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    cut(discovery, server, requests=3)
    assert read(discovery, server, now=SECONDS_BETWEEN_WALKS) == 4


def test_a_page_that_comes_late_serves_the_walk_once() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    late, last = cut(discovery, server, requests=2)
    unfinished, *rest = discovery.begin(0)
    assert rest == [late, last]
    assert discovery.receive(late, server.answer(late), 0, POLLED) == []
    assert discovery.receive(unfinished, server.answer(unfinished), 0, POLLED) == []
    assert discovery.receive(late, BatchPage(0, 0, ()), 0, POLLED) == []
    assert not discovery.complete
    assert discovery.receive(last, server.answer(last), 0, POLLED) == []
    assert discovery.complete
    assert discovery.totals[BatchStatus.SUCCESS] == 250


def test_a_server_that_does_not_heed_the_filter_misleads_nobody() -> None:
    batches = (listed(1), listed(2, BatchStatus.PROCESSING), listed(3, BatchStatus.UNKNOWN))
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(3, 3, batches), 0, POLLED)
    assert discovery.receive(finished, BatchPage(3, 3, batches), 0, POLLED) == []
    assert set(discovery.seen_unfinished) == {ref(2), ref(3)}
    assert known(discovery)[ref(1)] is BatchStatus.SUCCESS
    assert {status: count for status, count in discovery.totals.items() if count} == {"processing": 1, "success": 1}


def test_a_list_that_shrinks_and_grows_while_it_is_read_leaves_no_gap() -> None:
    """A page that ends early is asked for again from there; that must not hide what is added behind it meanwhile."""
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (first,) = discovery.receive(request, BatchPage(0, 0, ()), 0, POLLED)
    (second,) = discovery.receive(first, BatchPage(20, 10, tuple(map(listed, range(10)))), 0, POLLED)
    (rest,) = discovery.receive(second, BatchPage(20, 6, tuple(map(listed, range(10, 16)))), 0, POLLED)
    (third,) = discovery.receive(rest, BatchPage(25, 4, tuple(map(listed, range(16, 20)))), 0, POLLED)
    assert third.offset == 20
    assert discovery.receive(third, BatchPage(25, 5, tuple(map(listed, range(20, 25)))), 0, POLLED) == []
    assert len(discovery.known) == 25
