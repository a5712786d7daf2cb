"""The whole exporter behind its web server, driven with random sequences of what may happen, against a simple model.

The model knows the world: which batches there are and what they are. Whatever the exporter shows of a batch must be
true of the world at that moment; the rest is which batches it shows, and why it shows nothing of some.
"""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.poll.feed_totals import SECONDS_BEFORE_THE_START
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.watch.watchlist import Source
from tests.fake_api import MAX_WAIT
from tools.sandbox import Sandbox, faults

CLIENT_KEY, API_TOKEN = "model-client", "model-token"
CONCURRENCY = 3
DAY = 86400.0
START = 1.75e9
LISTED_FOR = 30 * DAY
PREFIX = "5a0c2f0e"
REFUSED = {Reason.UNAUTHORIZED, Reason.SKIPPED}
FEEDS: list[list[dict[str, Any]]] = [
    [{"name": "guests", "ref_prefix": PREFIX, "labels": {"team": "crm"}, "next_success_resolves": True}],
    [
        {"name": "guests", "ref_prefix": PREFIX, "max_failed_ratio": 0.1, "next_success_resolves": True},
        {"name": "orders", "labels": {"team": "shop", "tier": "1"}, "min_records": 125},
    ],
]
FILES = ("a.yaml", "b.json")


def make_ref(number: int) -> str:
    """Give every other batch a ref of the feed's prefix."""
    return (PREFIX if number % 2 else "00000000") + f"-0000-4000-8000-{number:012x}"


@dataclass(frozen=True)
class Truth:
    """A batch as it really is."""

    ref: str
    status: str
    created: float
    modified: float
    failed: int = 0
    total: int = 100

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    def is_accepted(self, feed: dict[str, Any]) -> bool:
        ratio = feed.get("max_failed_ratio", 0)
        return self.status == "success" or bool(self.status == "error" and ratio and self.failed <= ratio * self.total)


@dataclass
class Settings:
    """The config file, as far as it changes here."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    files: bool = True
    discovery: bool = True
    max_batches: int = 500
    feeds: list[dict[str, Any]] = field(default_factory=list)
    succeeded: str = "1d"

    def feed(self, name: str | None) -> dict[str, Any]:
        return next((feed for feed in self.feeds if feed["name"] == name), {})

    def retention(self, status: str) -> float:
        return {"0s": 0.0, "1d": DAY}[self.succeeded] if status == "success" else 3 * DAY


class BrokenList(faults.Status):
    """Only the list is broken; a batch by itself is answered as it should be."""

    def applies_to(self, request: web.Request) -> bool:
        return "ref" not in request.match_info


class ExporterMachine(RuleBasedStateMachine):
    """What may happen, in any order; after each scrape all that it shows is judged."""

    def __init__(self, sandbox: Sandbox, directory: Path, ca_file: Path, time: list[float]) -> None:
        super().__init__()
        self.ca_file = ca_file
        self.sandbox = sandbox
        self.directory = directory
        self.time = time
        self.time[0] = 0.0
        sandbox.clear_faults()
        sandbox.set_api_token(API_TOKEN)
        for path in (directory / "batches.d").iterdir():
            path.unlink()
        # The world.
        self.world: dict[str, Truth] = {}
        self.removed: dict[str, Truth] = {}
        self.list_is_broken = False
        self.broken: set[str] = set()
        self.token_is_right = True
        # What is on disk; None is garbage.
        self.files: dict[str, list[dict[str, Any]] | None] = {}
        self.file_errors: dict[str, bool] = {}
        self.settings = Settings()
        self.steps = 0
        self.service: Service | None = None

    # What the exporter must remember.

    def start(self) -> None:
        self.loaded: dict[str, list[dict[str, Any]]] = {}
        self.applied = self.settings
        self.known: set[str] = set()
        self.missed: Counter[str] = Counter()
        self.in_list: set[str] = set()
        # Finished batches that were shown, and whether their details were.
        self.remembered: dict[str, bool] = {}
        # Those that a probe has asked, and that answered that they are finished.
        self.probed_finished: set[str] = set()
        # The feed of each watched batch; and by feed, what was known of batches that are watched no more.
        self.feed_of: dict[str, str | None] = {}
        self.past: dict[str, list[tuple[Truth, bool]]] = {}
        self.started = START + self.time[0]
        # The feed that each batch has counted for, and when each feed was last named.
        self.counted: dict[str, str | None] = {}
        # Those of them whose records have counted, too.
        self.counted_records: set[str] = set()
        self.feeds_named: dict[str | None, float] = {}
        self.is_refused = False
        # Between two trials of an API that fails everything, in seconds; 0: it does not.
        self.pause = 0
        self.next_trial = 0.0
        self.registry = CollectorRegistry()
        self.service = Service(
            self.directory / "config.yaml",
            self.registry,
            clock=lambda: self.time[0],
            wall_clock=lambda: START + self.time[0],
        )
        self.load_files()

    def teardown(self) -> None:
        # Hypothesis may give up while it draws the first config.
        if self.service is not None:
            self.service.poller.stop()
            self.service.close()
        for ref in [*self.world, *self.removed]:
            self.sandbox.remove_batch(ref)

    def write_config(self, *, good: bool = True) -> None:
        settings = self.settings
        document = {
            "api": {
                "base_url": self.sandbox.base_url,
                "endpoint": "inspect",
                "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
                "tls_config": {"ca_file": str(self.ca_file)},
                # A busy machine may take its time.
                "timeout": "2m",
                "concurrency": CONCURRENCY if good else 0,
            },
            "batches": settings.batches,
            "batch_files": ["batches.d/*"] if settings.files else [],
            "discovery": {"enabled": settings.discovery, "max_batches": settings.max_batches},
            "retention": {"succeeded": settings.succeeded, "failed": "3d"},
            # Rechecks have tests of their own.
            "recheck_finished": "1000d",
            "feeds": settings.feeds,
        }
        (self.directory / "config.yaml").write_text(json.dumps(document), encoding="utf-8")

    def load_files(self) -> None:
        """Do what the exporter must do with the files."""
        present = self.files if self.applied.files else {}
        self.loaded = {
            name: self.loaded.get(name, []) if content is None else content for name, content in present.items()
        }

    # The world.

    @rule(statuses=st.lists(st.sampled_from([*UNFINISHED, *FINISHED]), min_size=1, max_size=4), old=st.booleans())
    def upload(self, statuses: list[BatchStatus], old: bool) -> None:  # noqa: FBT001  Hypothesis calls it by name.
        for status in statuses:
            age = 2 * DAY if old and status.finished else 0.0
            now = START + self.tick() - age
            failed = 5 if status is BatchStatus.ERROR else 0
            self.put(Truth(self.all_refs()[-1], status.value, created=now - 0.5, modified=now, failed=failed))

    @precondition(lambda self: any(not truth.finished for truth in self.world.values()))
    @rule(data=st.data(), status=st.sampled_from(UNFINISHED + FINISHED), failed=st.sampled_from([10, 11]))
    def progress(self, data: st.DataObject, status: BatchStatus, failed: int) -> None:
        unfinished = [ref for ref, truth in self.world.items() if not truth.finished]
        truth = self.world[data.draw(st.sampled_from(unfinished))]
        failed = failed if status is BatchStatus.ERROR else 0
        self.put(replace(truth, status=status.value, modified=START + self.tick(), failed=failed))

    @precondition(lambda self: self.world)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(list(self.world)))
        self.removed[ref] = self.world.pop(ref)
        self.sandbox.remove_batch(ref)

    def put(self, truth: Truth) -> None:
        self.world[truth.ref] = truth
        self.sandbox.put_batch(
            truth.ref,
            status=truth.status,
            total=truth.total,
            failed=truth.failed,
            created_at=datetime.fromtimestamp(truth.created, UTC),
            modified_at=datetime.fromtimestamp(truth.modified, UTC),
        )

    @rule(list_is_broken=st.booleans(), data=st.data())
    def break_or_mend(self, list_is_broken: bool, data: st.DataObject) -> None:  # noqa: FBT001  Likewise.
        self.list_is_broken = list_is_broken
        self.broken = data.draw(st.sets(st.sampled_from(list(self.world)), max_size=2)) if self.world else set()
        self.sandbox.clear_faults()
        if list_is_broken:
            self.sandbox.set_fault(BrokenList(500))
        for ref in self.broken:
            for spelling in (ref, ref.upper()):
                self.sandbox.set_fault(faults.Status(500), ref=spelling)

    def all_refs(self) -> list[str]:
        """Give the refs of all batches that there were, and of one that there was not."""
        return [make_ref(number) for number in range(len(self.world) + len(self.removed) + 1)]

    @rule(right=st.sampled_from([True, True, False]))
    def change_token(self, right: bool) -> None:  # noqa: FBT001  Likewise.
        self.token_is_right = right
        self.sandbox.set_api_token(API_TOKEN if right else "another")

    @rule(seconds=st.sampled_from([15.0, 61.0, 700.0, DAY / 2, 2 * DAY, 10 * DAY]))
    def pass_time(self, seconds: float) -> None:
        self.time[0] += seconds

    def tick(self) -> float:
        """Let a second pass, so that no two things happen at the same time."""
        self.time[0] += 1
        return self.time[0]

    # What people do.

    def entries(self, data: st.DataObject) -> list[dict[str, Any]]:
        """Draw a list of batches, some of which do not exist yet, in either case."""
        return [
            {
                "ref": ref.upper() if data.draw(st.booleans()) else ref,
                **data.draw(st.sampled_from([{}, {"feed": "orders"}, {"feed": "guests", "labels": {"team": "own"}}])),
            }
            for ref in data.draw(st.lists(st.sampled_from(self.all_refs()), max_size=3, unique=True))
        ]

    @rule(
        name=st.sampled_from(FILES),
        content=st.sampled_from(["good", "good", "bad entry", "[half", "a: map", None]),
        data=st.data(),
    )
    def change_file(self, name: str, content: str | None, data: st.DataObject) -> None:
        """Write a list, one with a bad entry, or garbage; or remove the file."""
        self.file_errors[name] = content != "good"
        if content in {"good", "bad entry"}:
            entries = self.entries(data)
            self.write(name, json.dumps(entries if content == "good" else [*entries, {"ref": "no UUID"}]))
            self.files[name] = entries
        elif content is not None:
            self.write(name, content)
            self.files[name] = None
        else:
            (self.directory / "batches.d" / name).unlink(missing_ok=True)
            self.files.pop(name, None)

    def write(self, name: str, text: str) -> None:
        aside = self.directory / "aside"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.directory / "batches.d" / name)

    def draw_settings(self, data: st.DataObject) -> Settings:
        return Settings(
            batches=self.entries(data),
            files=data.draw(st.sampled_from([True, True, False])),
            discovery=data.draw(st.sampled_from([True, True, True, False])),
            max_batches=data.draw(st.sampled_from([500, 500, 1, 3])),
            feeds=data.draw(st.sampled_from(FEEDS)),
            succeeded=data.draw(st.sampled_from(["0s", "1d"])),
        )

    @rule(data=st.data(), by_content=st.booleans(), good=st.sampled_from([True, True, False]))
    def change_config(self, data: st.DataObject, by_content: bool, good: bool) -> None:  # noqa: FBT001  Likewise.
        assert self.service is not None
        settings = self.draw_settings(data)
        if good:
            self.settings = settings
        self.write_config(good=good)
        if by_content:
            self.service.reloader.reload_if_changed()
        elif good:
            self.service.reloader.reload()
        else:
            with pytest.raises(ConfigError):
                self.service.reloader.reload()
        if not good:
            assert not self.service.reloader.state.successful
            return
        self.applied = self.settings
        self.forget_what_is_watched_no_more()

    @rule()
    def restart(self) -> None:
        if self.service is not None:
            self.service.close()
        self.write_config()
        self.start()

    # What is shown.

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.settings = self.draw_settings(data)
        self.restart()

    @invariant()
    def scrape_at_every_other_step(self) -> None:
        self.steps += 1
        if self.steps % 2:
            self.scrape()

    def expected(self) -> dict[str, tuple[Source, str | None, dict[str, str]]]:
        """Say which batches are watched, from where, with which feed and labels."""
        watched: dict[str, tuple[Source, str | None, dict[str, str]]] = {}
        files = [entry for _, entries in sorted(self.loaded.items()) for entry in entries]
        for source, entries in ((Source.CONFIG, self.applied.batches), (Source.FILE, files)):
            for entry in entries:
                feed = entry.get("feed")
                labels = {**self.applied.feed(feed).get("labels", {}), **entry.get("labels", {})}
                watched.setdefault(entry["ref"].lower(), (source, feed, labels))
        for ref in self.known:
            guests = self.applied.feed("guests") if ref.startswith(PREFIX) else {}
            watched.setdefault(ref, (Source.DISCOVERY, guests.get("name"), guests.get("labels", {})))
        return watched

    def forget_what_is_watched_no_more(self) -> None:
        if not self.applied.discovery:
            self.known, self.missed = set(), Counter()
        watched = self.expected()
        for ref, feed in self.feed_of.items():
            # That the list goes on to show it says nothing of its feed.
            is_listed_no_more = ref not in watched or watched[ref][:2] == (Source.DISCOVERY, None)
            if is_listed_no_more and feed is not None and ref in self.known_finished():
                truth = self.world.get(ref) or self.removed[ref]
                self.past.setdefault(feed, []).append((truth, self.known_finished()[ref]))
        # Their memory goes with them.
        self.probed_finished -= self.feed_of.keys() - watched.keys()
        self.past = {feed: past for feed, past in self.past.items() if self.applied.feed(feed)}
        self.feed_of = {ref: feed for ref, (_, feed, _) in watched.items()}
        self.remembered = {
            ref: details
            for ref, details in self.remembered.items()
            # What only the list has shown goes with the list.
            if ref in watched and (details or ref in self.known)
        }

    def learn_list(self) -> None:
        """Two whole lists without it show that a batch is gone."""
        in_list = {ref for ref, truth in self.world.items() if truth.created > START + self.time[0] - LISTED_FOR}
        self.missed = Counter({ref: self.missed[ref] + 1 for ref in self.known - in_list})
        self.known = (self.known | in_list) - {ref for ref, walks in self.missed.items() if walks > 1}
        self.in_list = in_list

    @rule()
    def scrape(self) -> None:
        assert self.service is not None
        self.tick()
        self.sandbox.clear_requests()
        snapshot = self.service.poller.poll(self.time[0] + MAX_WAIT)
        # The files are read before the list.
        self.load_files()
        self.forget_what_is_watched_no_more()
        allowed = self.judge_requests(of_scrape=True)
        list_was_read = self.applied.discovery and allowed and not self.list_is_broken
        self.in_list = set()
        known_before = self.known_finished()
        if list_was_read:
            self.learn_list()
        self.forget_what_is_watched_no_more()
        self.judge_what_was_asked(known_before, list_was_read=list_was_read)
        self.judge_discovery(snapshot, list_was_read=list_was_read)
        readings = [state.reading.batch for state in snapshot.batches if state.reading is not None]
        assert snapshot.unread == sum(batch.status.finished and not batch.details_read for batch in readings)
        states = {state.watched.ref.lower(): state for state in snapshot.batches}
        assert len(states) == len(snapshot.batches), "no ref appears twice"
        watched = self.expected()
        for ref, state in states.items():
            assert ref in watched, "only what is watched is shown"
            assert (state.watched.source, state.watched.feed, state.watched.labels) == watched[ref]
            self.judge_state(ref, state, known_before, allowed=allowed)
        self.judge_what_is_shown(snapshot, states, known_before)
        self.judge_feeds(snapshot)
        self.judge_counters(snapshot)
        for name, content in self.files.items():
            error = self.registry.get_sample_value(
                "sitecore_cdp_exporter_batch_file_error", {"file": f"batches.d/{name}"}
            )
            assert error == (float(self.file_errors[name] or content is None) if self.applied.files else None)

    def judge_requests(self, *, of_scrape: bool) -> bool:
        """Judge what was asked, and return whether the API was to be asked for all that is of interest."""
        requests = self.sandbox.requests
        assert {request.method for request in requests} <= {"GET"}
        asked = Counter((request.path, request.query) for request in requests)
        assert not asked or max(asked.values()) == 1, "nothing is asked twice in a poll"
        answers = [request.status for request in requests]
        assert answers.count(401) <= CONCURRENCY, "no request follows a 401"
        tries = self.is_refused or self.pause > 0
        may_ask = not tries or self.time[0] >= self.next_trial
        if not may_ask:
            assert not answers, "the API is left alone"
        elif tries and answers:
            # One that fails in vain proves nothing, and the next one has to wait as well.
            self.pause = min(2 * self.pause, 60)
            self.next_trial = self.time[0] + (60 if self.is_refused else self.pause)
        is_trouble = set(answers) == {500}
        if 401 in answers:
            self.is_refused, self.pause = True, 0
            self.next_trial = self.time[0] + 60
        elif answers and not is_trouble:
            self.is_refused, self.pause = False, 0
        elif is_trouble and tries:
            assert len(answers) == 1, "a trial comes first"
        elif is_trouble and of_scrape and len(answers) >= 3:
            self.pause = 1
            self.next_trial = self.time[0] + 1
        return may_ask and self.token_is_right and not (tries and is_trouble)

    def judge_what_was_asked(self, known_before: dict[str, bool], *, list_was_read: bool) -> None:
        asked = {path.rpartition("/")[2].lower() for path in (request.path for request in self.sandbox.requests)}
        # After a long silence the oldest one is asked again, by itself.
        if self.applied.discovery or len(self.sandbox.requests) > 1:
            assert not asked & {ref for ref, details in known_before.items() if details}, "finished is finished"
        if list_was_read:
            shown = {ref for ref in self.in_list if not self.world[ref].finished} - set(known_before)
            assert not asked & shown, "what the list shows to be unfinished is not asked"

    def judge_discovery(self, snapshot: Snapshot, *, list_was_read: bool) -> None:
        if not self.applied.discovery:
            assert snapshot.discovery is None
            return
        assert snapshot.discovery is not None
        if list_was_read:
            assert snapshot.discovery.failure is None
            counts = Counter(self.world[ref].status for ref in self.in_list)
            assert snapshot.discovery.totals == {status: counts[status] for status in UNFINISHED + FINISHED}
        else:
            assert snapshot.discovery.failure in {Reason.SERVER_ERROR, *REFUSED}
            assert snapshot.discovery.totals is None

    def judge_state(self, ref: str, state: BatchState, known_before: dict[str, bool], *, allowed: bool) -> None:
        truth = self.world.get(ref)
        if state.reading is not None:
            batch = state.reading.batch
            truth = truth or self.removed[ref]
            assert batch.status == truth.status, "what is shown is true now"
            assert truth.finished or ref in self.world, "what is gone and was not finished is not shown"
            assert batch.modified == pytest.approx(truth.modified, abs=0.002)
            assert batch.total_records in ({truth.total} if batch.details_read else {None})
            assert batch.failed_records in ({truth.failed} if batch.details_read else {None})
            is_known_finished = truth.finished and batch.details_read
            accepted = truth.is_accepted(self.applied.feed(state.watched.feed)) if is_known_finished else None
            assert state.accepted is accepted
            if state.failure is not None:
                assert truth.finished
                assert not batch.details_read, "a batch whose details are read has not failed"
            if truth.finished and allowed and ref not in self.broken and ref in self.world:
                assert batch.details_read, "details are read as soon as they can be"
            assert batch.details_read or not known_before.get(ref), "details that were read are remembered"
        else:
            assert state.accepted is None
            assert ref not in self.known_finished(), "a finished batch is remembered"
            if not allowed:
                assert state.failure in REFUSED | ({Reason.SERVER_ERROR} if ref in self.broken else set())
            elif ref in self.broken and ref not in self.in_list:
                assert state.failure is Reason.SERVER_ERROR
            elif truth is None or (state.watched.ref != ref and ref not in self.known):
                assert state.failure is Reason.NOT_FOUND
            else:
                pytest.fail("it was asked, and answered")

    def judge_what_is_shown(
        self, snapshot: Snapshot, states: dict[str, BatchState], known_before: dict[str, bool]
    ) -> None:
        now = START + self.time[0]
        watched = self.expected()
        dropped = 0 if snapshot.discovery is None else snapshot.discovery.dropped
        assert len(states) + snapshot.retired + dropped == len(watched)
        newest = self.newest_accepted(watched, known_before)
        assert set(newest.values()) <= states.keys(), "the newest accepted batch of a feed is shown"
        for ref, (source, feed, _) in watched.items():
            truth = self.world.get(ref) or self.removed.get(ref)
            # What only the list knew is forgotten when the list shows it no more.
            known = (ref in known_before and ref in self.known_finished()) or ref in self.in_list
            if source is Source.CONFIG or truth is None or not truth.finished or not known:
                is_dropped = source is Source.DISCOVERY and ref not in states and truth is not None and truth.finished
                assert ref in states or is_dropped, "what is listed, unfinished or not known yet is shown"
                continue
            is_over = truth.modified + self.applied.retention(truth.status) <= now
            if ref in states and is_over:
                may_be_accepted = (
                    truth.status == "error"
                    and self.applied.feed(feed).get("max_failed_ratio")
                    and not known_before.get(ref)
                )
                is_newest = feed is not None and newest.get(feed) == ref
                assert is_newest or may_be_accepted or self.is_still_to_count(ref, known_before), (
                    "what is over is shown as its feed's newest, or until it has counted"
                )
            if ref not in states:
                assert is_over or (source is Source.DISCOVERY and dropped), "what is not over is shown"
                assert ref not in self.in_list or not self.is_still_to_count(ref, known_before), (
                    "what still has to count is shown"
                )
        self.judge_limit(states, watched, known_before, dropped)
        for ref, state in states.items():
            if state.reading is not None and state.reading.batch.status.finished:
                self.remembered[ref] = state.reading.batch.details_read
        # What the list has shown is known, whether it is exposed or not.
        for ref in self.in_list:
            if self.world[ref].finished:
                self.remembered.setdefault(ref, False)

    def judge_limit(
        self,
        states: dict[str, BatchState],
        watched: dict[str, tuple[Source, str | None, dict[str, str]]],
        known_before: dict[str, bool],
        dropped: int,
    ) -> None:
        discovered = [ref for ref in states if watched[ref][0] is Source.DISCOVERY]
        if dropped:
            assert len(discovered) >= self.applied.max_batches, "no more is dropped than must be"
        finished = {ref for ref in discovered if (truth := self.world.get(ref)) and truth.finished}
        # They do not take the place of others.
        extra = {ref for ref in finished if self.is_still_to_count(ref, known_before)}
        if self.in_list and len(discovered) - len(extra) > self.applied.max_batches:
            assert all(watched[ref][1] is not None for ref in finished - extra), "only unfinished and the feeds' newest"

    def is_still_to_count(self, ref: str, known_before: dict[str, bool]) -> bool:
        """Say whether a finished batch of the list counts, but its records did not yet: its details were unknown."""
        truth = self.world.get(ref) or self.removed[ref]
        counts = truth.modified > self.started - SECONDS_BEFORE_THE_START
        return ref in self.known and counts and not known_before.get(ref) and ref not in self.counted_records

    def newest_accepted(
        self, watched: dict[str, tuple[Source, str | None, dict[str, str]]], known_before: dict[str, bool]
    ) -> dict[str, str]:
        """Give the newest batch of each feed that was known to be accepted when the list was read."""
        newest: dict[str, tuple[float, str]] = {}
        for ref, (_, feed, _) in watched.items():
            # What this scrape was the first to read is known from the next one on.
            known = self.known_finished().keys() & known_before.keys() | self.in_list
            if feed is None or ref not in known:
                continue
            truth = self.world.get(ref) or self.removed[ref]
            if truth.is_accepted(self.applied.feed(feed)) and (truth.status == "success" or known_before.get(ref)):
                newest[feed] = max(newest.get(feed, (0.0, "")), (truth.modified, ref))
        return {feed: ref for feed, (_, ref) in newest.items()}

    def judge_feeds(self, snapshot: Snapshot) -> None:
        shown = {state.feed.name: state.last_accepted for state in snapshot.feeds}
        newest = {feed["name"]: self.accepted_of(feed) for feed in self.applied.feeds}
        modified = {name: max((truth.modified for truth in accepted), default=0) for name, accepted in newest.items()}
        assert shown == pytest.approx(modified, abs=0.002)
        for state in snapshot.batches:
            superseded, feed = None, self.applied.feed(state.watched.feed)
            # That a file is damaged needs no details.
            failed = state.accepted is False or (
                state.reading is not None and state.reading.batch.status is BatchStatus.CORRUPTED
            )
            if failed and feed.get("next_success_resolves"):
                truth = self.truth_of(state)
                accepted = newest[state.watched.feed or ""]
                superseded = any(each.created > truth.created for each in accepted)
            assert state.superseded is superseded
            self.judge_open_failure(state, feed, failed=failed)

    def truth_of(self, state: BatchState) -> Truth:
        key = state.watched.ref.lower()
        return self.world.get(key) or self.removed[key]

    def judge_open_failure(self, state: BatchState, feed: dict[str, Any], *, failed: bool) -> None:
        """A failure is open while it is not superseded and no week old, whether or not the API answers now."""
        expected = None
        truth = self.truth_of(state) if failed or state.accepted else None
        if truth is not None and not state.superseded and START + self.time[0] - truth.modified <= 7 * DAY:
            if state.accepted:
                missing = 1 - truth.total / feed["min_records"] if feed.get("min_records") else 0
                expected = ("too_few_records", missing) if missing > 0 else None
            elif truth.status == "corrupted":
                expected = ("corrupted", 1.0)
            else:
                expected = ("rejected", truth.failed / truth.total)
        shown = state.open_failure
        assert (None if shown is None else (shown.kind, shown.ratio)) == expected

    def judge_counters(self, snapshot: Snapshot) -> None:
        """A batch counts once, for the feed that it had then, unless it had finished long before the start.

        What has counted for a feed is forgotten when nothing has named that for as long as a batch is shown.
        """
        watched = self.expected()
        feeds_shown = set(self.feeds_named)
        named = {feed["name"] for feed in self.applied.feeds} | {feed for _, feed, _ in watched.values()}
        self.feeds_named |= dict.fromkeys(named, self.time[0])
        longest = max(self.applied.retention("success"), self.applied.retention("error"))
        for feed in [feed for feed, then in self.feeds_named.items() if then < self.time[0] - longest]:
            del self.feeds_named[feed]
            self.counted = {ref: "forgotten" if each == feed else each for ref, each in self.counted.items()}
        for ref in self.known_finished().keys() & watched.keys():
            if (self.world.get(ref) or self.removed[ref]).modified > self.started - SECONDS_BEFORE_THE_START:
                self.counted.setdefault(ref, watched[ref][1])
                if self.known_finished()[ref]:
                    self.counted_records.add(ref)
        finished: Counter[tuple[str | None, str]] = Counter()
        for ref, feed in self.counted.items():
            truth = self.world.get(ref) or self.removed[ref]
            finished[feed, truth.status] += 1
        for history in snapshot.histories:
            counts = {status: finished[history.name, status] for status in FINISHED}
            assert history.totals.finished == (counts if history.name in feeds_shown else dict.fromkeys(FINISHED, 0))
        assert {history.name for history in snapshot.histories} == self.feeds_named.keys()

    def known_finished(self) -> dict[str, bool]:
        """Give the batches that are known to be finished, and whether their details are known."""
        return self.remembered | dict.fromkeys(self.probed_finished, True)

    def accepted_of(self, feed: dict[str, Any]) -> list[Truth]:
        """Give what is known to be accepted, by the rule of now; a success needs no details."""
        known = [
            (self.world.get(ref) or self.removed[ref], details)
            for ref, details in self.known_finished().items()
            if ref in self.feed_of and self.feed_of[ref] == feed["name"]
        ]
        return [
            truth
            for truth, details in known + self.past.get(feed["name"], [])
            if truth.is_accepted(feed) and (details or truth.status == "success")
        ]

    @precondition(lambda self: self.world)
    @rule(data=st.data())
    def probe(self, data: st.DataObject) -> None:
        """A probe shows the truth about any batch, retired or listed or not."""
        assert self.service is not None
        self.tick()
        self.sandbox.clear_requests()
        ref = data.draw(st.sampled_from(list(self.world)))
        (state,) = self.service.poller.probe(ref, self.time[0] + MAX_WAIT).batches
        # It reads the files, too, before it asks: what they list no more is forgotten, but not what it answers now.
        self.load_files()
        self.forget_what_is_watched_no_more()
        if state.reading is not None and state.reading.batch.status.finished and state.reading.batch.details_read:
            self.probed_finished.add(ref)
        assert len(self.sandbox.requests) <= 1
        allowed = self.judge_requests(of_scrape=False)
        if state.reading is not None:
            assert state.reading.batch.status == self.world[ref].status
        else:
            is_misspelled = state.watched.ref != ref and ref not in self.known
            assert ref in self.broken or is_misspelled or not allowed
            assert state.failure in {Reason.SERVER_ERROR, Reason.NOT_FOUND, *REFUSED}


def test_whatever_happens_what_is_shown_is_true(tmp_path: Path, ca_file: Path) -> None:
    time = [0.0]
    (tmp_path / "batches.d").mkdir()
    clock = lambda: datetime.fromtimestamp(START + time[0], UTC)  # noqa: E731  It is handed over, no more.
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, clock=clock) as sandbox:
        run_state_machine_as_test(
            lambda: ExporterMachine(sandbox, tmp_path, ca_file, time),  # type: ignore[arg-type]  # Any factory serves.
            settings=settings(
                deadline=None,
                max_examples=25,
                stateful_step_count=40,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                # To shrink a failure would take longer than the test may.
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
            ),
        )
