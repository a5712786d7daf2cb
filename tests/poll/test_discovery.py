"""The list of batches is read to its true end, however its pages shift."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus, parse_batch_page
from sitecore_cdp_exporter.poll.discovery import SECONDS_AFTER_A_PROBLEM, SECONDS_BETWEEN_WALKS, Discovery
from sitecore_cdp_exporter.poll.walk import FINISHED, MAX_BATCHES, UNFINISHED, PageRequest
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
        if not discovery.wants(request):
            continue
        requests += discovery.receive(request, server.answer(request), now, POLLED)
        between()
    assert discovery.complete
    return len(server.requests) - before


def known(discovery: Discovery) -> dict[str, BatchStatus]:
    return {key: reading.batch.status for key, reading in discovery.known.items()}


statuses = st.sampled_from(UNFINISHED + FINISHED)


@given(st.lists(statuses, max_size=60), st.integers(1, 20), st.data())
def test_every_batch_is_found_for_any_page_size_and_any_order_of_pages(
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


def test_before_the_list_was_read_it_has_no_samples() -> None:
    discovery = Discovery()
    assert (discovery.known, discovery.seen_unfinished, discovery.take_changed()) == ({}, {}, [])
    assert (discovery.unreadable, discovery.revision) == (0, 0)
    assert discovery.totals == dict.fromkeys(UNFINISHED + FINISHED, 0)


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


def test_a_batch_that_finishes_deep_in_the_list_is_found_at_once_although_another_became_too_old() -> None:
    server = Server(
        [listed(number, BatchStatus.PROCESSING if number == 7 else BatchStatus.SUCCESS) for number in range(1000)]
    )
    discovery = Discovery()
    read(discovery, server)
    server.change(7, status=BatchStatus.ERROR)
    del server.batches[0]
    read(discovery, server)
    assert known(discovery)[ref(7)] is BatchStatus.ERROR


def test_a_quiet_list_of_a_server_that_grants_one_batch_a_page_is_read_with_few_requests() -> None:
    server = Server([listed(number) for number in range(5)], largest_page=1)
    discovery = Discovery()
    assert read(discovery, server) == 1 + 5
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


def test_a_first_page_of_nothing_but_batches_that_have_just_finished_needs_no_other_page() -> None:
    server = Server(
        [listed(number, BatchStatus.PROCESSING if number >= 4 else BatchStatus.SUCCESS) for number in range(6)],
        largest_page=2,
    )
    discovery = Discovery()
    read(discovery, server)
    server.change(4, status=BatchStatus.ERROR)
    server.change(5, status=BatchStatus.SUCCESS)
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


def test_a_batch_whose_status_changes_is_reported_once_unless_it_is_gone() -> None:
    server = Server([listed(1, BatchStatus.PROCESSING), listed(2, BatchStatus.PROCESSING), listed(3)])
    discovery = Discovery()
    read(discovery, server)
    assert discovery.take_changed() == [], "what is new has not changed"
    server.change(1, status=BatchStatus.ERROR)
    server.change(2, status=BatchStatus.SUCCESS)
    read(discovery, server)
    del server.batches[1]
    read(discovery, server, now=SECONDS_BETWEEN_WALKS)
    read(discovery, server, now=2 * SECONDS_BETWEEN_WALKS)
    assert discovery.take_changed() == [listed(1, BatchStatus.ERROR)]
    assert discovery.take_changed() == []


def test_the_revision_grows_with_each_change_of_what_is_known_and_with_nothing_else() -> None:
    server = Server([listed(number) for number in range(3)])
    discovery = Discovery()
    revisions = [discovery.revision]

    def revise(now: float = 0.0) -> bool:
        read(discovery, server, now)
        revisions.append(discovery.revision)
        return revisions[-1] > revisions[-2]

    assert revise(), "batches have come"
    assert not revise()
    server.batches.append(listed(10))
    assert revise(), "one has come"
    server.change(10, modified=5.0)
    assert revise(), "one has changed"
    del server.batches[0]
    for walk in range(5):
        revise(walk * SECONDS_BETWEEN_WALKS)
    del server.batches[0]
    for walk in range(5, 10):
        revise(walk * SECONDS_BETWEEN_WALKS)
    assert revisions == sorted(revisions)
    assert len(set(revisions)) == 6, "two have gone"


def test_a_batch_that_a_walk_missed_counts_again_as_soon_as_a_page_shows_it() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    read(discovery, server)
    hidden = server.batches.pop()
    read(discovery, server, now=SECONDS_BETWEEN_WALKS)
    assert discovery.totals[BatchStatus.SUCCESS] == 249
    server.batches.append(hidden)
    del server.batches[0]
    assert read(discovery, server, now=SECONDS_BETWEEN_WALKS + 15) == 2
    assert discovery.totals[BatchStatus.SUCCESS] == 250, "which one became too old is not known yet"


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
    assert discovery.problem is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=12), st.integers(2, 10))
def test_a_list_that_moves_once_between_two_pages_is_not_a_problem(
    changes: list[tuple[bool, int]], largest_page: int
) -> None:
    """Wherever a batch arrives or leaves: the order of the list is not documented."""
    server = Server([listed(number) for number in range(30)], largest_page)
    rest = iter(changes)

    def change() -> None:
        arrives, place = next(rest, (True, -1))
        if arrives and place >= 0:
            server.batches.insert(place, listed(1000 + len(server.requests)))
        elif place >= 0 and server.batches:
            del server.batches[place % len(server.batches)]

    discovery = Discovery()
    read(discovery, server, between=change)
    assert discovery.problem is None


@given(st.booleans(), st.integers(0, 29), st.integers(1, 8), st.integers(2, 10), st.data())
def test_a_list_that_moves_once_while_pages_are_read_in_any_order_is_not_a_problem(
    arrives: bool,  # noqa: FBT001  Hypothesis passes it by place.
    place: int,
    moment: int,
    largest_page: int,
    data: st.DataObject,
) -> None:
    server = Server([listed(number) for number in range(30)], largest_page)

    def change() -> None:
        if len(server.requests) == moment:
            server.batches[place : place + (not arrives)] = [listed(1000)] if arrives else []

    discovery = Discovery()
    read(discovery, server, choose=lambda count: data.draw(st.integers(0, count - 1)), between=change)
    assert discovery.problem is None


def test_a_batch_that_was_missed_while_the_list_moved_is_found_by_the_next_poll() -> None:
    server = Server([listed(number) for number in range(400)])
    discovery = Discovery()

    def change() -> None:
        if len(server.requests) == 3:
            server.batches.insert(250, listed(1000, BatchStatus.ERROR))

    read(discovery, server, between=change)
    assert ref(1000) not in discovery.known
    assert discovery.problem is None
    read(discovery, server)
    assert known(discovery)[ref(1000)] is BatchStatus.ERROR


def test_an_empty_page_is_the_end_for_any_count() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    first, *_ = discovery.receive(request, BatchPage(900, 1, (listed(1, BatchStatus.PROCESSING),)), 0, POLLED)
    (finished,) = discovery.receive(first, BatchPage(900, 0, ()), 0, POLLED)
    assert finished.statuses == FINISHED
    assert not discovery.wants(PageRequest(UNFINISHED, 2)), "it is behind the end"
    assert discovery.receive(finished, BatchPage(0, 0, ()), 0, POLLED) == []
    assert discovery.complete


def test_a_malformed_item_keeps_its_place_in_the_paging() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(0, 0, ()), 0, POLLED)
    (more,) = discovery.receive(finished, BatchPage(3, 2, (listed(1),), unreadable=1), 0, POLLED)
    assert more.offset == 2
    assert discovery.receive(more, BatchPage(3, 1, (listed(3),)), 0, POLLED) == []
    assert set(discovery.known) == {ref(1), ref(3)}
    assert discovery.unreadable == 1


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
    for poll in range(3):
        cut(discovery, server, requests=3, now=1e6 + poll)
        assert not discovery.complete
        assert set(discovery.seen_unfinished) == {ref(1000)}
    assert len(discovery.known) == 1 + 600, "in each poll one page is of the unfinished"
    assert read(discovery, server, now=1e6 + 3) == 1 + 4
    assert discovery.totals[BatchStatus.SUCCESS] == 1000
    assert read(discovery, server, now=1e6 + 4) == 2


def test_a_walk_that_ends_before_the_unfinished_were_read_does_not_complete_the_list() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    cut(discovery, server, requests=2)
    unfinished, *rest = discovery.begin(0)
    for request in rest:
        discovery.receive(request, server.answer(request), 0, POLLED)
    assert not discovery.complete
    discovery.receive(unfinished, server.answer(unfinished), 0, POLLED)
    assert discovery.complete


def test_a_walk_that_was_cut_long_ago_starts_over() -> None:
    server = Server([listed(number) for number in range(250)])
    discovery = Discovery()
    cut(discovery, server, requests=3, now=1e6)
    assert read(discovery, server, now=1e6 + SECONDS_BETWEEN_WALKS) == 4


def test_a_list_that_is_cut_among_the_unfinished_is_read_in_the_same_order_again() -> None:
    """A batch that finishes in between must be seen twice, not missed."""
    server = Server([listed(number, BatchStatus.PROCESSING) for number in range(3)], largest_page=2)
    discovery = Discovery()
    read(discovery, server)
    cut(discovery, server, requests=1)
    assert discovery.begin(0) == [PageRequest(UNFINISHED, 0)]


def test_a_late_page_counts_once() -> None:
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


def test_a_server_that_ignores_the_filter_is_detected() -> None:
    batches = (listed(1), listed(2, BatchStatus.PROCESSING), listed(3, BatchStatus.UNKNOWN))
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(3, 3, batches), 0, POLLED)
    assert discovery.receive(finished, BatchPage(3, 3, batches), 0, POLLED) == []
    assert set(discovery.seen_unfinished) == {ref(2)}, "the unknown one must be asked for itself"
    assert known(discovery)[ref(1)] is BatchStatus.SUCCESS
    assert discovery.problem is None
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


class Liar(Server):
    """A list endpoint whose pages do not add up, by `lie`, until it is None."""

    def __init__(self, batches: Sequence[Batch], lie: Callable[[PageRequest, BatchPage], BatchPage] | None) -> None:
        super().__init__(batches)
        self.lie = lie
        self.shown: set[str] = set()

    def answer(self, request: PageRequest) -> BatchPage:
        page = super().answer(request)
        page = page if self.lie is None else self.lie(request, page)
        self.shown |= {batch.ref for batch in page.batches}
        return page


def counting(count: Callable[[int], int | None]) -> Callable[[PageRequest, BatchPage], BatchPage]:
    return lambda _, page: replace(page, total=None if page.total is None else count(page.total))


def ending_early(request: PageRequest, page: BatchPage) -> BatchPage:
    """Show no more than the first 200, as a search index may do."""
    return page if request.offset < 200 else replace(page, length=0, batches=())


def hiding_one(_: PageRequest, page: BatchPage) -> BatchPage:
    return replace(page, length=max(page.length - 1, 0), batches=page.batches[1:])


def showing_one_twice(_: PageRequest, page: BatchPage) -> BatchPage:
    return replace(page, batches=page.batches[:-1] + page.batches[:1])


def unreadable_in_part(_: PageRequest, page: BatchPage) -> BatchPage:
    return replace(page, unreadable=min(page.length, 1))


LIES = {
    "a count that is too high by one": counting(lambda count: count + 1),
    "a count that is too high by far": counting(lambda count: count + 5_000),
    "a count that no organisation can have": counting(lambda _: MAX_BATCHES + 1),
    "a count that is too low by one": counting(lambda count: count - 1),
    "a count of 0": counting(lambda _: 0),
    "no count": counting(lambda _: None),
    "an end before the end": ending_early,
    "a batch less than there are": hiding_one,
    "a batch shown twice": showing_one_twice,
    "an item that is not readable": unreadable_in_part,
}


@pytest.mark.parametrize(
    ("lie", "finished"),
    # A list of 200 or fewer has no end before its end.
    [(lie, finished) for lie in LIES for finished in (3, 101, 300) if finished > 200 or LIES[lie] is not ending_early],
)
def test_a_list_that_does_not_add_up_has_a_problem_and_what_it_shows_is_known(lie: str, finished: int) -> None:
    batches = [listed(number) for number in range(finished)]
    batches += [listed(number, BatchStatus.PROCESSING) for number in range(1000, 1003)]
    server = Liar(batches, LIES[lie])
    discovery = Discovery()
    assert read(discovery, server) < 60
    assert discovery.problem is not None
    assert set(discovery.known) == server.shown
    assert len(server.shown) >= min(finished, 200) * 0.97, "what can be read is read"
    server.lie = None
    read(discovery, server, now=SECONDS_AFTER_A_PROBLEM)
    assert discovery.problem is None
    assert len(discovery.known) == len(batches)


@pytest.mark.parametrize("finished", [101, 150, 199, 201, 1000])
@pytest.mark.parametrize("largest_page", [1, 3, 100])
@pytest.mark.parametrize("has_count", [True, False])
def test_a_server_that_repeats_a_page_has_a_problem_and_the_walk_ends(
    finished: int,
    largest_page: int,
    has_count: bool,  # noqa: FBT001  A column.
) -> None:
    server = Liar([listed(number) for number in range(finished)], None)
    server.largest_page = largest_page

    def first_page(request: PageRequest, _: BatchPage) -> BatchPage:
        page = Server.answer(server, replace(request, offset=0))
        return page if has_count else replace(page, total=None)

    server.lie = first_page
    discovery = Discovery()
    read(discovery, server)
    assert len({request.offset for request in server.requests}) <= 3
    assert discovery.problem is not None
    assert len(discovery.known) == largest_page


def test_reading_a_garbage_list_ends() -> None:
    discovery = Discovery()
    requests = discovery.begin(0)
    pages = 0
    while requests:
        requests += discovery.receive(requests.pop(), BatchPage(None, 100, (), unreadable=100), 0, POLLED)
        pages += 1
    assert pages <= 4
    assert (discovery.unreadable, discovery.known) == (200, {})
    assert discovery.problem is not None


@pytest.mark.parametrize("start", [0.0, 1e6])
def test_an_unreadable_item_deep_in_the_list_stays_a_problem_until_a_walk_finds_none(start: float) -> None:
    server = Liar(
        [listed(number) for number in range(1000)],
        lambda request, page: replace(page, unreadable=int(request.offset == 500)),
    )
    discovery = Discovery()
    read(discovery, server, now=start)
    assert (discovery.unreadable, discovery.problem is None) == (1, False)
    assert read(discovery, server, now=start + 15) == 2, "nobody reads the whole list at each scrape because of it"
    assert (discovery.unreadable, discovery.problem is None) == (1, False)
    server.lie = None
    read(discovery, server, now=start + SECONDS_AFTER_A_PROBLEM)
    assert (discovery.unreadable, discovery.problem) == (0, None)


def test_an_item_of_the_first_page_that_becomes_unreadable_is_a_problem_at_once() -> None:
    server = Liar([listed(number) for number in range(1000)], None)
    discovery = Discovery()
    read(discovery, server)
    server.lie = lambda request, page: replace(
        page, batches=page.batches[1:], unreadable=int(request.statuses == FINISHED and not request.offset)
    )
    read(discovery, server, now=15)
    assert discovery.unreadable == 1
    assert discovery.problem is not None


def test_a_first_page_that_is_empty_although_the_count_says_otherwise_is_a_problem_at_once() -> None:
    server = Liar([listed(number) for number in range(1000)], None)
    discovery = Discovery()
    read(discovery, server)
    server.lie = lambda _, page: replace(page, length=0, batches=())
    read(discovery, server, now=15)
    assert discovery.problem is not None


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        (lambda _, page: replace(page, total=None), "totalCount is missing or wrong"),
        (
            lambda request, page: page if request.offset == 0 else BatchPage(page.total, 1, (listed(4), listed(3))),
            "a page shows nothing but what other pages show",
        ),
        (lambda _, page: replace(page, unreadable=page.length), "unreadable items: 5"),
        (counting(lambda count: count and count + 3), "totalCount is 8, but the pages show 5 batches"),
    ],
)
def test_a_problem_names_what_does_not_add_up(lie: Callable[[PageRequest, BatchPage], BatchPage], problem: str) -> None:
    server = Liar([listed(number) for number in range(5)], lie)
    server.largest_page = 2 if "nothing but" in problem else 100
    discovery = Discovery()
    read(discovery, server)
    assert discovery.problem == problem


@pytest.mark.parametrize("total", [0, 50, None])
def test_a_first_page_that_contradicts_itself_is_a_problem_at_once(total: int | None) -> None:
    server = Liar([listed(number) for number in range(1000)], None)
    discovery = Discovery()
    read(discovery, server)
    server.lie = lambda _, page: replace(page, total=total)
    read(discovery, server, now=15)
    assert discovery.problem is not None


def test_a_list_that_does_not_add_up_does_not_show_that_a_batch_is_gone() -> None:
    server = Liar([listed(number) for number in range(5)], None)
    discovery = Discovery()
    read(discovery, server)
    server.lie = hiding_one
    for poll in range(4):
        read(discovery, server, now=poll * SECONDS_BETWEEN_WALKS)
    assert len(discovery.known) == 5


def test_an_unfinished_batch_of_an_unknown_status_does_not_cost_a_walk_at_each_poll() -> None:
    server = Server([listed(number) for number in range(250)] + [listed(1000, BatchStatus.PROCESSING)])
    honest = server.answer

    def answer(request: PageRequest) -> BatchPage:
        page = honest(request)
        if request.statuses == FINISHED:
            return page
        return BatchPage(1, 1, (replace(page.batches[0], status=BatchStatus.UNKNOWN),), unreadable=1)

    server.answer = answer  # type: ignore[method-assign]
    discovery = Discovery()
    read(discovery, server)
    assert read(discovery, server) == 2
    assert known(discovery)[ref(1000)] is BatchStatus.UNKNOWN


def test_an_impossible_count_causes_no_requests() -> None:
    discovery = Discovery()
    (request,) = discovery.begin(0)
    batches = tuple(listed(number, BatchStatus.PROCESSING) for number in range(100))
    assert len(discovery.receive(request, BatchPage(MAX_BATCHES + 1, 100, batches), 0, POLLED)) == 1


def test_a_batch_that_takes_the_place_of_another_while_the_list_is_read_is_not_a_problem() -> None:
    """The count stays the same, and one batch is shown twice."""
    server = Server([listed(number) for number in range(250)])

    def change() -> None:
        if len(server.requests) == 2:
            del server.batches[0]
            server.batches.append(listed(1000))

    discovery = Discovery()
    read(discovery, server, between=change)
    assert discovery.problem is None


def test_a_batch_of_an_unknown_status_is_known_but_not_seen_unfinished() -> None:
    """So it is asked for itself, however the list spells its status."""
    batch = listed(1, BatchStatus.UNKNOWN)
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(0, 0, ()), 0, POLLED)
    assert discovery.receive(finished, BatchPage(1, 1, (batch,), unreadable=1), 0, POLLED) == []
    assert known(discovery) == {ref(1): BatchStatus.UNKNOWN}
    assert not discovery.seen_unfinished
    assert discovery.problem is not None


@given(st.sampled_from(["href", "errorLog", "status", "createdAt", "modifiedAt", "ref", "\x00"]), st.booleans())
def test_no_presigned_url_of_the_list_is_remembered(field: str, in_page: bool) -> None:  # noqa: FBT001  Hypothesis passes it by place.
    url = "https://bucket.example/errors.gz?X-Amz-Signature=presigned"
    items = [{"ref": ref(1), "status": "error"}, {"ref": ref(2), "status": "error", field: url}, {field: url}, url]
    page = {"totalCount": 4, "items": items} | ({field: url} if in_page else {})
    discovery = Discovery()
    (request,) = discovery.begin(0)
    (finished,) = discovery.receive(request, BatchPage(0, 0, ()), 0, POLLED)
    discovery.receive(finished, parse_batch_page(json.dumps(page).encode()), 0, POLLED)
    assert ref(1) in discovery.known
    assert discovery.problem is not None
    assert b"presigned" not in pickle.dumps(discovery)


class DiscoveryMachine(RuleBasedStateMachine):
    """Batches come, finish and go between polls, while the list is right or lies, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Liar([], None)
        self.server.largest_page = 10
        self.discovery = Discovery()
        self.now = 0.0
        self.uploads = 0
        self.lie_is_of: tuple[BatchStatus, ...] = UNFINISHED

    @rule(present=st.lists(statuses, min_size=1, max_size=25))
    def upload(self, present: list[BatchStatus]) -> None:
        for status in present:
            self.server.batches.append(listed(self.uploads, status))
            self.uploads += 1

    @precondition(lambda self: self.server.batches)
    @rule(places=st.lists(st.integers(0, 1000), max_size=5), status=statuses)
    def change(self, places: list[int], status: BatchStatus) -> None:
        for place in places:
            number = int(self.server.batches[place % len(self.server.batches)].created or 0)
            self.server.change(number, status=status, modified=self.now)

    @precondition(lambda self: self.server.batches)
    @rule(place=st.integers(0, 1000))
    def age_out(self, place: int) -> None:
        del self.server.batches[place % len(self.server.batches)]

    @rule(
        lie=st.sampled_from(
            [
                "a count that is too high by one",
                "a count that no organisation can have",
                "no count",
                "a batch less than there are",
                "an item that is not readable",
            ]
        ),
        of=st.sampled_from([UNFINISHED, FINISHED]),
    )
    def lie(self, lie: str, of: tuple[BatchStatus, ...]) -> None:
        self.lie_is_of = of
        self.server.lie = lambda request, page: LIES[lie](request, page) if request.statuses == of else page

    @rule()
    def be_honest(self) -> None:
        self.server.lie = None

    @rule(seconds=st.sampled_from([15.0, SECONDS_AFTER_A_PROBLEM, SECONDS_BETWEEN_WALKS]))
    def poll(self, seconds: float) -> None:
        self.now += seconds
        self.server.shown.clear()
        known_before = known(self.discovery)
        read(self.discovery, self.server, now=self.now)
        truth = {batch.ref: batch.status for batch in self.server.batches}
        found = known(self.discovery)
        assert self.server.shown <= found.keys(), "what was shown is watched, even if something else is wrong"
        assert {key: found[key] for key in self.server.shown} == {key: truth[key] for key in self.server.shown}
        assert known_before.keys() & truth.keys() <= found.keys(), "what is still there is not taken for gone"
        # In between nothing need show what is deep in the list.
        if seconds < SECONDS_BETWEEN_WALKS:
            return
        if self.server.lie is not None:
            assert self.discovery.problem is not None or not {*truth.values()} & {*self.lie_is_of}
        else:
            assert self.discovery.problem is None
            assert truth.items() <= found.items(), "a whole walk misses nothing"
            counts = Counter(truth.values())
            assert self.discovery.totals == {status: counts[status] for status in UNFINISHED + FINISHED}


TestWhateverHappensToTheList = DiscoveryMachine.TestCase
TestWhateverHappensToTheList.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
