"""--once: what it polls, how long it waits, and its flags. The report is tested in test_report.py."""

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitecore_cdp_exporter import once as module
from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogReading, RecordCause
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config.model import ApiConfig, Config, Discovery, FeedConfig, WatchedBatch
from sitecore_cdp_exporter.once import FIRST_PAUSE, MAX_PAUSE, MAX_WAIT_FOR_LOGS, Polls, only
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.report import outcome_of
from tests.conditions import wait_until
from tests.config_file import OTHER_REF, REF, SECRET, write_config
from tests.exporter_program import API_TOKEN, CLIENT_KEY
from tests.fake_api import Clock, FakeApi, Lists, batch, ref
from tools.sandbox import Sandbox, faults

MINUTE = 60.0
TIMEOUT = 5.0


# Polls and waits, by a clock that only sleeping moves.


class Waiting:
    """The polls of a `--once` for these batches. `at` has what happens at a time; both are seconds since its start."""

    def __init__(self, api: FakeApi, *refs: str, **config: Any) -> None:  # noqa: ANN401  As in Config.
        self.api = api
        self.clock = Clock()
        self.began = self.clock.now
        self.at: dict[float, Callable[[], object]] = {}
        self.lines: list[str] = []
        api_config = ApiConfig(base_url="https://api.example", endpoint="inspect")
        batches = tuple(WatchedBatch(ref=each) for each in refs)
        self.poller = Poller(
            api,
            Config(api=api_config, batches=batches, **config),
            Lists(),
            clock=self.clock,
            wall_clock=lambda: 1.75e9,
            wait=self.clock.wait,
        )

    @property
    def elapsed(self) -> float:
        return self.clock.now - self.began

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.clock.now += seconds
        for moment in [moment for moment in self.at if moment <= self.elapsed]:
            self.at.pop(moment)()

    def run(self, wait: float = 0.0, *, are_logs_read: bool = True) -> list[str]:
        polls = Polls(poller=self.poller, progress=self.lines.append, clock=self.clock, sleep=self.sleep)
        snapshot = polls.run(wait, timeout=TIMEOUT, are_logs_read=are_logs_read)
        return [outcome_of(state) for state in snapshot.batches]


def answering(api: FakeApi, number: int, status: BatchStatus) -> Callable[[], object]:
    return lambda: api.answers.update({ref(number): batch(number, status)})


def test_without_a_wait_each_batch_is_asked_once(api: FakeApi) -> None:
    waiting = Waiting(api, ref(1), ref(2))
    assert waiting.run() == ["unfinished", "unfinished"]
    assert sorted(api.asked) == [ref(1), ref(2)]
    assert (waiting.elapsed, waiting.lines) == (0.0, [])


def test_it_waits_until_all_are_finished_and_asks_for_none_that_is(api: FakeApi) -> None:
    api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
    waiting = Waiting(api, ref(1), ref(2))
    waiting.at[200.0] = answering(api, 2, BatchStatus.CORRUPTED)
    assert waiting.run(30 * MINUTE) == ["accepted", "failed"]
    assert 200 <= waiting.elapsed <= 200 + MAX_PAUSE
    assert api.asked.count(ref(1)) == 1
    # The pauses have grown.
    assert 200 / MAX_PAUSE < api.asked.count(ref(2)) < 200 / MAX_PAUSE + 10
    assert waiting.lines == ["1 unfinished, 1 accepted", "1 failed, 1 accepted"]


def test_a_batch_that_finishes_at_once_is_seen_soon(api: FakeApi) -> None:
    waiting = Waiting(api, ref(1))
    waiting.at[0.5] = answering(api, 1, BatchStatus.SUCCESS)
    assert waiting.run(MINUTE) == ["accepted"]
    assert waiting.elapsed == FIRST_PAUSE


def test_the_wait_ends_with_a_last_poll_when_it_is_over(api: FakeApi) -> None:
    waiting = Waiting(api, ref(1))
    waiting.at[50.0] = answering(api, 1, BatchStatus.SUCCESS)
    assert waiting.run(50.0) == ["accepted"]
    assert waiting.elapsed == 50.0

    waiting = Waiting(FakeApi(), ref(1))
    assert waiting.run(50.0) == ["unfinished"]
    assert waiting.elapsed == 50.0


def test_the_last_poll_has_the_time_of_one_request(api: FakeApi) -> None:
    waiting = Waiting(api, ref(1))
    deadlines: list[float] = []
    poll = waiting.poller.poll

    def note(deadline: float) -> Any:  # noqa: ANN401
        deadlines.append(deadline - waiting.clock.now)
        return poll(deadline)

    waiting.poller.poll = note  # type: ignore[method-assign]
    waiting.run(300.0)
    assert deadlines[:2] == [120.0, 120.0]
    assert deadlines[-1] == TIMEOUT


@pytest.mark.parametrize("reason", [Reason.UNAUTHORIZED, Reason.FORBIDDEN])
def test_a_refusal_ends_the_wait_at_once(api: FakeApi, reason: Reason) -> None:
    status = 401 if reason is Reason.UNAUTHORIZED else 403
    refs = [ref(number) for number in range(5)]
    api.answers |= dict.fromkeys(refs, PollError.of_status(status))
    waiting = Waiting(api, *refs)
    assert waiting.run(30 * MINUTE) == ["unreadable"] * 5
    assert waiting.elapsed == 0


def test_credentials_that_are_missing_end_the_wait_at_once(api: FakeApi) -> None:
    api.credentials = PollError(Reason.CREDENTIALS)
    waiting = Waiting(api, ref(1))
    assert waiting.run(30 * MINUTE) == ["unreadable"]
    assert (waiting.elapsed, api.asked) == (0, [])


def test_what_may_pass_is_waited_for(api: FakeApi) -> None:
    api.answers[ref(1)] = PollError.of_status(503)
    waiting = Waiting(api, ref(1))
    waiting.at[100.0] = answering(api, 1, BatchStatus.SUCCESS)
    assert waiting.run(30 * MINUTE) == ["accepted"]


def test_a_retry_after_is_kept_while_waiting(api: FakeApi) -> None:
    api.answers[ref(1)] = PollError.of_status(429, retry_after=100.0)
    waiting = Waiting(api, ref(1))
    waiting.at[99.0] = answering(api, 1, BatchStatus.SUCCESS)
    assert waiting.run(30 * MINUTE) == ["accepted"]
    assert api.asked == [ref(1)] * 2


def test_a_batch_may_be_allocated_within_a_minute(api: FakeApi) -> None:
    api.answers[ref(1)] = PollError.of_status(404)
    waiting = Waiting(api, ref(1))
    waiting.at[40.0] = answering(api, 1, BatchStatus.SUCCESS)
    assert waiting.run(30 * MINUTE) == ["accepted"]

    api.answers[ref(1)] = PollError.of_status(404)
    waiting = Waiting(api, ref(1))
    assert waiting.run(30 * MINUTE) == ["unreadable"]
    assert MINUTE <= waiting.elapsed <= MINUTE + MAX_PAUSE


def test_an_expired_upload_is_not_waited_for(api: FakeApi) -> None:
    api.answers[ref(1)] = Batch(ref=ref(1), status=BatchStatus.UPLOADING, error_log_available=False, upload_expiry=1.0)
    waiting = Waiting(api, ref(1))
    assert waiting.run(30 * MINUTE) == ["failed"]
    assert waiting.elapsed == 0


def test_a_list_that_cannot_be_read_is_waited_for(api: FakeApi) -> None:
    api.list_error = PollError.of_status(500)
    waiting = Waiting(api, discovery={"enabled": True})

    def recover() -> None:
        api.list_error = None
        api.listed = [batch(1, BatchStatus.SUCCESS)]
        answering(api, 1, BatchStatus.SUCCESS)()

    waiting.at[100.0] = recover
    assert waiting.run(30 * MINUTE) == ["accepted"]


def test_an_item_of_the_list_that_cannot_be_read_is_not_waited_for() -> None:
    class WithAnUnreadableItem(FakeApi):
        def read_page(self, *args: Any) -> BatchPage:  # noqa: ANN401  As in FakeApi.
            page = super().read_page(*args)
            return replace(page, total=(page.total or 0) + 1, length=page.length + 1, unreadable=1)

    api = WithAnUnreadableItem({ref(1): batch(1, BatchStatus.SUCCESS)})
    api.listed = [batch(1, BatchStatus.SUCCESS)]
    waiting = Waiting(api, discovery={"enabled": True})
    assert waiting.run(30 * MINUTE) == ["accepted"]
    assert waiting.elapsed == 0


def with_log(number: int) -> Batch:
    return Batch(ref=ref(number), status=BatchStatus.ERROR, error_log_available=True, failed_records=3, total_records=9)


def let_the_log_be_read(api: FakeApi, poller: Poller, now: float) -> None:
    """Let it, and wait for it: the clock of the test does not wait for the thread that reads it."""
    api.logs_open.set()

    def is_read() -> bool:
        [state] = poller.probe(ref(1), now + TIMEOUT).batches
        return (state.error_log or state.error_log_failure) is not None

    wait_until(is_read)


def test_the_error_logs_are_waited_for(api: FakeApi) -> None:
    api.answers[ref(1)] = with_log(1)
    api.logs[ref(1)] = LogReading(ErrorLog({RecordCause.VALIDATION: 3}))
    api.logs_open.clear()
    waiting = Waiting(api, ref(1), ref(2))
    waiting.at[30.0] = lambda: let_the_log_be_read(api, waiting.poller, waiting.clock())
    polls = Polls(poller=waiting.poller, progress=print, clock=waiting.clock, sleep=waiting.sleep)
    first, second = polls.run(0.0, timeout=TIMEOUT, are_logs_read=True).batches
    assert first.error_log == ErrorLog({RecordCause.VALIDATION: 3})
    assert second.reading is not None
    assert waiting.elapsed >= 30
    assert sorted(api.asked) == [ref(1), ref(2)]


def test_an_error_log_is_waited_for_a_minute_at_most(api: FakeApi) -> None:
    api.answers[ref(1)] = with_log(1)
    api.logs_open.clear()
    waiting = Waiting(api, ref(1))
    try:
        assert waiting.run() == ["failed"]
    finally:
        api.logs_open.set()
    assert MAX_WAIT_FOR_LOGS <= waiting.elapsed < MAX_WAIT_FOR_LOGS + 1


def test_an_error_log_that_cannot_be_read_is_not_waited_for(api: FakeApi) -> None:
    api.answers[ref(1)] = with_log(1)
    api.logs[ref(1)] = LogReading(Reason.TIMEOUT)
    api.logs_open.clear()
    waiting = Waiting(api, ref(1))
    waiting.at[30.0] = lambda: let_the_log_be_read(api, waiting.poller, waiting.clock())
    assert waiting.run() == ["failed"]
    assert 30 <= waiting.elapsed < 31


def test_no_error_log_is_waited_for_where_none_is_read(api: FakeApi) -> None:
    api.answers[ref(1)] = with_log(1)
    waiting = Waiting(api, ref(1), error_logs={"enabled": False})
    assert waiting.run(are_logs_read=False) == ["failed"]
    assert waiting.elapsed == 0


# Which batches


def test_named_batches_keep_what_they_are_listed_with() -> None:
    feeds = (
        FeedConfig(name="nightly", labels={"team": "crm"}),
        FeedConfig(name="hourly", ref_prefix=OTHER_REF[:8], labels={"team": "shop"}),
    )
    api = ApiConfig(base_url="https://api.example", endpoint="inspect")
    config = Config(
        api=api,
        feeds=feeds,
        batches=(WatchedBatch(ref=REF, feed="nightly", labels={"a": "b"}), WatchedBatch(ref=ref(1))),
        batch_files=("/none/*.yaml",),
        discovery=Discovery(enabled=True),
    )
    of_files = {ref(2): WatchedBatch(ref=ref(2), feed="weekly", replaces=(ref(3),))}
    named = only(config, of_files, [REF.upper(), ref(2), OTHER_REF, REF, ref(4)])
    assert named.batches == (
        WatchedBatch(ref=REF, feed="nightly", labels={"team": "crm", "a": "b"}),
        WatchedBatch(ref=ref(2), feed="weekly", replaces=(ref(3),)),
        WatchedBatch(ref=OTHER_REF, feed="hourly", labels={"team": "shop"}),
        WatchedBatch(ref=ref(4)),
    )
    assert (named.batch_files, named.discovery.enabled, named.feeds) == ((), False, feeds)


# The command


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="success", total=7, succeeded=7, failed=0)
        yield sandbox


@pytest.fixture
def config(sandbox: Sandbox, tmp_path: Path) -> Path:
    return write_config(
        tmp_path,
        base_url=sandbox.base_url,
        endpoint="inspect",
        basic_auth={"username": CLIENT_KEY, "password": API_TOKEN},
    )


def change(config: Path, **sections: object) -> None:
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump(document | sections), encoding="utf-8")


def run(config: Path, *flags: str) -> int:
    return main(["--once", f"--config.file={config}", *flags])


def test_the_report_has_all_that_is_watched(config: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.put_batch(OTHER_REF, status="processing")
    assert run(config) == 4
    output = capsys.readouterr()
    rows = [line.split()[:3] for line in output.out.splitlines()[1:]]
    assert rows == [["-", OTHER_REF, "processing"], ["nightly", REF, "success"]]
    assert output.err == ""


def test_only_named_batches_are_asked_for(config: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "--output=json", REF) == 0
    [batch] = json.loads(capsys.readouterr().out)["batches"]
    assert (batch["ref"], batch["feed"], batch["outcome"]) == (REF, "nightly", "accepted")
    assert [request.path for request in sandbox.requests] == [f"/v2/batches/inspect/{REF}"]


def test_where_the_api_is_down_the_report_says_why(
    config: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.set_fault(faults.Status(503))
    assert run(config, "--output=json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["exit_status"], shown["api_up"], shown["api_failure"]) == (1, False, "server_error")


@pytest.mark.parametrize("refs", [[], [REF]])
def test_an_api_that_forbids_every_batch_is_noted(
    refs: list[str], config: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.set_fault(faults.Status(403))
    assert run(config, *refs) == 4
    assert "The Batch API refuses every batch: forbidden. " in capsys.readouterr().out


@pytest.mark.parametrize("refs", [[], [REF]])
def test_credentials_that_are_missing_are_named(
    refs: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["api"]["basic_auth"] = {"username": SECRET, "password_file": "none"}
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert run(config, "--wait=10m", *refs) == 1
    output = capsys.readouterr()
    assert output.err.startswith("warning: credentials cannot be read now: api.basic_auth.password_file (")
    assert "  credentials" in output.out
    assert SECRET not in output.out + output.err


def test_a_config_with_mistakes_is_1_with_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("api:\n  base_url: ftp://x\nbatches: [abc]\n", encoding="utf-8")
    assert run(config) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.removeprefix(f"{config}:")[:2] for line in output.err.splitlines()] == ["2:", "3:"]
    assert run(tmp_path / "none.yaml") == 1
    assert "No such file or directory; name yours with --config.file" in capsys.readouterr().err


def test_nothing_to_poll_is_no_success(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, batches=[], batch_files=["batches.d/*.yaml"])
    assert run(config) == 1
    output = capsys.readouterr()
    assert output.out == "No batches.\n"
    assert output.err.splitlines() == [
        "nothing is watched: list batches in the config, or name their refs",
        f"warning: batch_files: {config.parent / 'batches.d'}: No such file or directory",
    ]


@pytest.mark.parametrize("flag", ["--once", "--config.check"])
def test_what_the_config_names_cannot_control_the_terminal(
    config: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(
        config,
        batch_files=["\x1b]0;title\x07\u202e.d/*.yaml"],
        batches=[{"ref": REF, "feed": "a\u202eb", "labels": {"team": "\x9b31m"}}],
    )
    assert main([flag, f"--config.file={config}"]) == 0
    output = capsys.readouterr()
    assert r"\x1b]0;title\x07\u202e.d: No such file or directory" in output.err
    assert r"a\u202eb" in output.out
    assert all(character.isprintable() for line in output.out.splitlines() for character in line)


def test_a_batch_file_with_a_mistake_is_no_success(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "b.yaml").write_text("- abc\n", encoding="utf-8")
    change(config, batches=[REF], batch_files=["b.yaml"])
    assert run(config) == 1
    output = capsys.readouterr()
    assert REF in output.out
    [line] = output.err.splitlines()
    assert "b.yaml:1: [0]: expected a UUID" in line
    (config.parent / "b.yaml").write_text("nonsense\n", encoding="utf-8")
    assert run(config) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("b.yaml:1: expected a list of batches")
    # It may have the feed of a batch that is named, but hides none.
    assert run(config, REF) == 0
    assert capsys.readouterr().err == f"{line}\n"


def test_a_finished_batch_is_asked_once_whatever_the_config_says(config: Path, sandbox: Sandbox) -> None:
    sandbox.put_batch(OTHER_REF, status="error", total=9, succeeded=6, failed=3, log=True)
    change(config, recheck_finished="0s")
    assert run(config, "--wait=1m") == 3
    assert sum(request.path.startswith("/v2/") for request in sandbox.requests) == 2


class Output(io.StringIO):
    """An output that fails as the system does."""

    encoding = "ascii"

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("error", "status"), [(BrokenPipeError(errno.EPIPE, "Broken pipe"), 0), (OSError(errno.ENOSPC, "No space left"), 1)]
)
def test_a_reader_that_has_left_is_no_failure_but_a_full_disk_is(
    error: OSError, status: int, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Output(error))
    assert run(config, REF) == status
    assert capsys.readouterr().err == ("the output cannot be written: No space left\n" if status else "")


def test_a_terminal_that_cannot_show_a_name_gets_an_escape(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(config, batches=[{"ref": REF, "feed": "nächtlich"}])
    output = Output()
    monkeypatch.setattr(sys, "stdout", output)
    assert run(config) == 0
    assert r"n\xe4chtlich" in output.getvalue()


def test_a_closed_output_is_no_failure(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(config, REF) == 0


def test_what_goes_to_a_closed_standard_error_is_not_in_the_report(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, batch_files=["batches.d/*.yaml"])
    monkeypatch.setattr(sys, "stderr", None)
    assert run(config, "--output=json", REF) == 0
    assert json.loads(capsys.readouterr().out)["exit_status"] == 0
    assert run(config.parent / "none.yaml", "--output=json") == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EPIPE])
def test_a_standard_error_that_cannot_be_written_does_not_cost_the_report(
    error: int, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, batch_files=["batches.d/*.yaml"])
    monkeypatch.setattr(sys, "stderr", Output(OSError(error, "cannot be written")))
    assert run(config, "--output=json", REF) == 0
    assert json.loads(capsys.readouterr().out)["exit_status"] == 0


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_goes_to_a_terminal_only(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    is_terminal: bool,
) -> None:
    monkeypatch.setattr(module, "_is_terminal", lambda: is_terminal)
    assert run(config, "--wait=1m", REF) == 0
    assert capsys.readouterr().err == ("waiting: 1 accepted\n" if is_terminal else "")


def test_it_loads_no_server() -> None:
    program = (
        "import gc, sys; gc.disable(); from sitecore_cdp_exporter import cli, once; print({*sys.modules} & {*sys.argv})"
    )
    names = ["aiohttp", "prometheus_client", "sitecore_cdp_exporter.web.server", "sitecore_cdp_exporter.sandbox"]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
