"""The uploads of a soak, and the history of every batch: what the exporter has to show Prometheus.

Most batches are placed in the sandbox, state by state, each with a plan of its own. The others are sent through the
real protocol by the uploads of the demo; when they have finished, their history follows from what the API says of
them and from how long the sandbox keeps them in each state.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import requests

from sitecore_cdp_exporter.sandbox.demo_uploader import DemoUploads
from sitecore_cdp_exporter.sandbox.state import PROCESSING_TIME, QUEUE_TIME
from tools.sandbox import Sandbox
from tools.soak.comparison import Life
from tools.soak.files import BatchFiles
from tools.soak.schedule import Schedule

SECONDS_BETWEEN_UPLOADS = 0.5
MIN_STATE_SECONDS, MAX_STATE_SECONDS = 0.3, 8.0
# How long the API remembers a finished batch. So the soak reaches a steady number of batches, with less than a page of
# finished ones: beyond that it takes the exporter up to twenty minutes to believe that a batch is gone, by design.
SECONDS_REMEMBERED = 20.0
# The list shows the batches of 30 days. An older one is known by its batch file alone.
TOO_OLD_FOR_THE_LIST = timedelta(days=31)
SHARE_OF_LISTED = 0.3
SHARE_OF_UNKNOWN = 0.1
# Four hours of the demo in one; its batches take up to a quarter of a minute.
DEMO_SPEED = 6.0
MAX_DEMO_BATCH_SECONDS = 20.0
FINISHED = ("success", "error", "corrupted")
# What the API may say one day, and what the exporter makes of it.
UNHEARD_OF, UNKNOWN = "quarantined", "unknown"
COUNTS = ("total_records", "succeeded_records", "failed_records")
REQUEST_TIMEOUT = 5.0


class History:
    """What each batch was, and when.

    Attributes:
        lives: Those that are over.
        counts: What the final counts are, by ref and metric; None: the API does not say.
        transitions: How many there were.

    """

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.counts: dict[tuple[str, str], float | None] = {}
        self.transitions = 0
        self._current: dict[str, tuple[str, float]] = {}

    def change(self, ref: str, status: str | None, make: Callable[[], None]) -> None:
        """Change a batch, and write down that it did; without a status it is gone."""
        self._leave(ref, time.time())
        make()
        if status is not None:
            self._enter(ref, status, time.time())

    def recount(self, ref: str, changes: list[tuple[str, float]]) -> None:
        """Write down what a batch has gone through already: status and moment, in order. It is still in the last."""
        for status, moment in changes:
            self._leave(ref, moment)
            self._enter(ref, status, moment)

    def expect_counts(self, ref: str, counts: Mapping[str, float | None]) -> None:
        """Write down what a finished batch says of its records, by the names in COUNTS."""
        for name in COUNTS:
            self.counts[ref, f"sitecore_cdp_batch_{name}"] = counts.get(name)

    def end(self) -> None:
        """End what still lasts."""
        now = time.time()
        for ref in list(self._current):
            self._leave(ref, now)

    def _enter(self, ref: str, status: str, moment: float) -> None:
        self._current[ref] = (status, moment)
        self.transitions += 1

    def _leave(self, ref: str, moment: float) -> None:
        if ref in self._current:
            status, since = self._current.pop(ref)
            self.lives.append(Life(ref, status, since, moment))


@dataclass(frozen=True)
class Plan:
    """What a placed batch will go through: each state and its seconds, and the final one with its counts."""

    ref: str
    created_at: datetime
    states: Iterator[tuple[str, float]]
    final: str
    counts: Mapping[str, int]


class PlacedUploads:
    """Places a batch every half a second, and takes it through its states until the API forgets it."""

    def __init__(
        self, sandbox: Sandbox, schedule: Schedule, history: History, files: BatchFiles, random: Random
    ) -> None:
        self.count = 0
        self.refs: dict[str, None] = {}
        self._sandbox = sandbox
        self._schedule = schedule
        self._history = history
        self._files = files
        self._random = random

    def start(self) -> None:
        """Begin."""
        self._schedule.every(SECONDS_BETWEEN_UPLOADS, self._upload)

    def _upload(self) -> None:
        ref = str(UUID(int=self._random.getrandbits(128), version=4))
        self.count += 1
        self.refs[ref] = None
        created_at = datetime.now(UTC)
        listed = self._random.random() < SHARE_OF_LISTED
        if listed:
            created_at -= TOO_OLD_FOR_THE_LIST
            self._files.add(ref)
        final = self._random.choice(FINISHED)
        self._go_on(Plan(ref, created_at, iter(self._states(listed=listed)), final, self._counts(final)))

    def _states(self, *, listed: bool) -> list[tuple[str, float]]:
        """Choose the states before the last; an upload may skip the queue, or be quick."""
        statuses = ["uploading", "file_uploaded", "processing"]
        if self._random.random() < SHARE_OF_LISTED:
            statuses.remove("file_uploaded")
        # The list leaves out a status that its filter does not name, so only a listed batch is sure to be asked for.
        if listed and self._random.random() < SHARE_OF_UNKNOWN:
            statuses.append(UNHEARD_OF)
        return [(status, self._random.uniform(MIN_STATE_SECONDS, MAX_STATE_SECONDS)) for status in statuses]

    def _counts(self, final: str) -> dict[str, int]:
        total = self._random.randrange(1, 200_000)
        match final:
            case "success":
                return {"total": total, "succeeded": total, "failed": 0}
            case "error":
                failed = self._random.randrange(1, total + 1)
                return {"total": total, "succeeded": total - failed, "failed": failed}
            case _:
                return {}

    def _go_on(self, plan: Plan) -> None:
        """Put a batch into its next state, and come back when that is over."""
        status, seconds = next(plan.states, (plan.final, SECONDS_REMEMBERED))
        if status == plan.final:
            self._place(plan, status, **plan.counts)
            self._history.expect_counts(plan.ref, {f"{name}_records": count for name, count in plan.counts.items()})
            self._schedule.after(seconds, lambda: self._forget(plan.ref))
        else:
            self._place(plan, status)
            self._schedule.after(seconds, lambda: self._go_on(plan))

    def _place(self, plan: Plan, status: str, **counts: int) -> None:
        def place() -> None:
            self._sandbox.put_batch(
                plan.ref,
                status=status,
                created_at=plan.created_at,
                modified_at=datetime.now(UTC),
                log=status == "error",
                **counts,
            )

        self._history.change(plan.ref, UNKNOWN if status == UNHEARD_OF else status, place)

    def _forget(self, ref: str) -> None:
        self._history.change(ref, None, lambda: self._sandbox.remove_batch(ref))
        self._files.remove(ref)
        del self.refs[ref]


class FollowedDemo:
    """The uploads of the demo, and their outcomes.

    `credentials` returns those that the API accepts now, and `fails` whether it is failing now.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        schedule: Schedule,
        history: History,
        *,
        credentials: Callable[[], tuple[str, str]],
        fails: Callable[[], bool],
    ) -> None:
        self.count = 0
        self._sandbox = sandbox
        self._schedule = schedule
        self._history = history
        self._credentials = credentials
        self._fails = fails
        # Announced by the thread of the demo, each with its moment.
        self._announced: deque[tuple[float, str]] = deque()
        client_key, api_token = credentials()
        self._demo = DemoUploads(
            sandbox.base_url,
            client_key=client_key,
            api_token=api_token,
            announce=lambda ref, _: self._announced.append((time.monotonic(), ref)),
            speed=DEMO_SPEED,
        )

    def start(self) -> None:
        """Begin."""
        self._demo.start()
        self._schedule.every(1.0, lambda: self._follow(MAX_DEMO_BATCH_SECONDS))

    def stop(self) -> None:
        """Upload no more, and write down what has finished by now. What has not is not compared."""
        self._demo.stop()
        self._follow(0.0)

    def _follow(self, age: float) -> None:
        """Record the history of the batches of this age, in seconds; one that cannot be read waits."""
        # A request that hangs would keep the schedule from ending the fault.
        if self._fails():
            return
        for moment, ref in list(self._announced):
            if time.monotonic() - moment < age or (body := self._read(ref)) is None:
                continue
            self._announced.remove((moment, ref))
            if body["status"]["code"] in FINISHED:
                self.count += 1
                self._recount(ref, body)
                self._schedule.after(SECONDS_REMEMBERED, lambda ref=ref: self._forget(ref))  # type: ignore[misc]
            elif age:
                # Its upload was lost.
                self._sandbox.remove_batch(ref)

    def _recount(self, ref: str, body: Mapping[str, Any]) -> None:
        created, modified = (datetime.fromisoformat(body[name]).timestamp() for name in ("createdAt", "modifiedAt"))
        processing = modified - PROCESSING_TIME.total_seconds() / DEMO_SPEED
        queued = processing - QUEUE_TIME.total_seconds() / DEMO_SPEED
        statuses = ("uploading", "file_uploaded", "processing", body["status"]["code"])
        self._history.recount(ref, list(zip(statuses, (created, queued, processing, modified), strict=True)))
        stats = body.get("summaryStats", {})
        self._history.expect_counts(ref, {name: stats.get(_field(name)) for name in COUNTS})

    def _forget(self, ref: str) -> None:
        self._history.change(ref, None, lambda: self._sandbox.remove_batch(ref))

    def _read(self, ref: str) -> dict[str, Any] | None:
        url = f"{self._sandbox.base_url}/v2/batches/inspect/{ref}"
        try:
            answer = requests.get(url, auth=self._credentials(), timeout=REQUEST_TIMEOUT)
            body: dict[str, Any] = answer.json()
        except requests.RequestException:
            return None
        return body if answer.ok and body.get("ref") == ref else None


def _field(name: str) -> str:
    """Return the field of `summaryStats`: `totalCount` for `total_records`."""
    return f"{name.removesuffix('_records')}Count"
