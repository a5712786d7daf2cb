"""What is logged when a batch changes."""

import logging
from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import Config, WatchedBatch
from sitecore_cdp_exporter.poll.batch_log import MAX_LOGGED
from sitecore_cdp_exporter.poll.poller import Poller
from tests.fake_api import Clock, FakeApi, Lists, batch, ref
from tests.poll.polling import (
    make_poller,
    new_poller,
    poll,
    watch,
)


class TestLog:
    def test_an_outage_is_logged_once_with_its_cause(
        self, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(30))
        poll(poller, clock)
        api.credentials = PollError(Reason.CREDENTIALS, "there is no password")
        for _ in range(3):
            poll(poller, clock)
        api.credentials = Credentials("client", "token")
        poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == [
            "the Batch API is up",
            "cannot query the Batch API: there is no password",
            "the Batch API is up again",
        ]

    @pytest.mark.parametrize("status", [BatchStatus.ERROR, BatchStatus.CORRUPTED])
    def test_a_batch_that_is_first_seen_failed_is_logged_once_as_a_warning_with_its_counts(
        self,
        poller: Poller,
        api: FakeApi,
        watchlist: Lists,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        status: BatchStatus,
    ) -> None:
        caplog.set_level(logging.INFO)
        watchlist.replace([WatchedBatch(ref=ref(number), feed="nightly") for number in (1, 2)])
        answer = batch(1, status, total=120) if status is BatchStatus.ERROR else batch(1, status)
        api.answers[ref(1)] = replace(answer, failed_records=3 if status is BatchStatus.ERROR else None)
        poll(poller, clock)
        api.answers[ref(2)] = replace(api.answers[ref(1)], ref=ref(2))  # type: ignore[type-var]
        for _ in range(3):
            poll(poller, clock)
        warnings = [vars(record) for record in caplog.records if record.levelno == logging.WARNING]
        assert [(each["msg"], each["ref"], each["feed"], each["status"]) for each in warnings] == [
            ("a batch has failed", ref(number), "nightly", status) for number in (1, 2)
        ]
        counts = [(each.get("failed_records"), each.get("total_records")) for each in warnings]
        assert counts == [(3, 120) if status is BatchStatus.ERROR else (None, None)] * 2

    def test_a_restart_does_not_flood_the_log_with_old_failures(
        self, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(500))
        api.answers |= {ref(number): batch(number, BatchStatus.ERROR, total=9) for number in range(500)}
        for _ in range(3):
            poll(poller, clock)
        assert len(caplog.records) == MAX_LOGGED + 1

    def test_a_poll_logs_a_bounded_number_of_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch(watchlist, *range(300))
        api.answer(PollError.of_status(404), *range(300))
        poll(poller, clock)
        assert len(caplog.records) == MAX_LOGGED + 1
        assert caplog.records[-1].getMessage() == "this poll logs no more batches; the metrics name them all"

    def test_a_poll_logs_a_bounded_number_of_batches_that_the_list_shows_changed(
        self, api: FakeApi, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        sections = {"api": {"base_url": "https://api.example", "endpoint": "inspect"}, "discovery": {"enabled": True}}
        poller = new_poller(api, Config.model_validate(sections), clock)
        api.listed = [batch(number) for number in range(300)]
        poll(poller, clock)
        caplog.clear()
        api.listed = [replace(each, status=BatchStatus.FILE_UPLOADED) for each in api.listed]
        poll(poller, clock)
        messages = [record.getMessage() for record in caplog.records]
        assert messages.count("a batch has a new status") == MAX_LOGGED
        assert messages[-1] == "this poll logs no more batches; the metrics name them all"
