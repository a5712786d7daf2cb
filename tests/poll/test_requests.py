"""How few requests the exporter makes, by the counts of `bench.requests_over_time`."""

from tools.bench.requests_over_time import count_restart, count_scrapes, count_time

HOUR = 3600.0


def test_hundreds_of_batches_need_few_requests() -> None:
    scrapes = count_scrapes(batches=450, unfinished=50)
    # Each of the finished is read once, after five pages of the list.
    assert scrapes.first == 400 + 1 + 4
    assert scrapes.quiet <= 3
    # The two are the oldest of the list, so its first page does not show what has changed.
    assert scrapes.two_finished <= 10


def test_an_hour_of_scrapes_by_two_prometheus_makes_two_requests_each_and_a_few_more() -> None:
    uploads_a_day = 4
    scrapes, walks, later_pages = 480, 6, 1
    requests = count_time(uploads_a_day, HOUR, prometheus=2)
    assert 2 * scrapes <= requests <= 2 * scrapes + later_pages * walks + 2 * uploads_a_day / 24 + 4


def test_a_restart_reads_all_details_within_the_deadlines_newest_first_and_none_twice() -> None:
    scrapes = count_restart(600, answer_delay=0.05, deadline=1.5)
    assert len(scrapes) > 1, "one scrape has no time for all"
    unread = [scrape.unread for scrape in scrapes if scrape.failure is None]
    assert unread == sorted(unread, reverse=True)
    assert unread[-1] == 0
    assert all(scrape.newest_first for scrape in scrapes)
