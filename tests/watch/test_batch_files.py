"""The batch files of a folder, while they appear, change and vanish; compared with a small model too."""

import logging
import os
import re
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sitecore_cdp_exporter.config.files import read_regular_file
from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, WatchedBatch
from sitecore_cdp_exporter.watch import batch_files as module
from sitecore_cdp_exporter.watch.batch_files import MAX_WARNINGS, BatchFiles, parse_batch_file
from tests.hanging_disk import MAX_WAIT, HangingDisk

REFS = [f"3ee694e5-0b77-2d1e-af19-{number:012x}" for number in range(10)]
LOGGER = "sitecore_cdp_exporter.watch.batch_files"


class Folder:
    """The folder of a config file with `batches.d/*.yaml` in it, and the BatchFiles that watch these."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches = path / "batches.d"
        self.batches.mkdir()
        self.files = BatchFiles([str(self.batches / "*.yaml")], path)

    def write(self, name: str, content: str) -> Path:
        """Write a file aside and rename it, as a careful pipeline does."""
        path, aside = self.batches / name, self.batches / f".{name}.tmp"
        aside.write_text(content)
        aside.rename(path)
        return path

    def watched(self) -> list[str]:
        """The refs after a refresh, each by its number in REFS, with its feed."""
        self.files.refresh()
        assert all(ref == batch.ref.lower() for ref, batch in self.files.batches.items())
        return [f"{REFS.index(ref)} {batch.feed}" for ref, batch in self.files.batches.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class Log:
    """What was logged since it was last asked: level and message, with `extra` behind."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.DEBUG, logger=LOGGER)

    def lines(self) -> list[str]:
        extras = ("file", "batches", "errors", "batches_kept")
        lines = [
            " ".join(
                [record.levelname, record.getMessage()]
                + [f"{name}={getattr(record, name)}" for name in extras if hasattr(record, name)]
            )
            for record in self._caplog.records
            if record.name == LOGGER
        ]
        self._caplog.clear()
        return lines


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were parsed, in order."""
    names: list[str] = []

    def parse(path: Path, content: bytes) -> object:
        names.append(path.name)
        return parse_batch_file(path, content)

    monkeypatch.setattr(module, "parse_batch_file", parse)
    return names


def entry(number: int, feed: str | None = None) -> str:
    return f"- {{ref: {REFS[number]}, feed: {feed or '~'}}}\n"


def test_files_appear_change_and_vanish_with_one_line_for_each(folder: Folder, log: Log) -> None:
    assert folder.watched() == []
    assert (folder.files.errors, log.lines()) == ({}, [])

    folder.write("b.yaml", entry(3) + entry(1, "guests"))
    folder.write("a.yaml", entry(2))
    assert folder.watched() == ["2 None", "3 None", "1 guests"]
    assert folder.files.errors == {"batches.d/a.yaml": False, "batches.d/b.yaml": False}
    assert log.lines() == [
        "INFO batch file loaded file=batches.d/a.yaml batches=1 errors=0",
        "INFO batch file loaded file=batches.d/b.yaml batches=2 errors=0",
    ]

    folder.write("b.yaml", entry(3))
    assert folder.watched() == ["2 None", "3 None"]
    assert log.lines() == ["INFO batch file loaded file=batches.d/b.yaml batches=1 errors=0"]

    (folder.batches / "a.yaml").unlink()
    assert folder.watched() == ["3 None"]
    assert folder.files.errors == {"batches.d/b.yaml": False}
    assert log.lines() == ["INFO batch file is gone file=batches.d/a.yaml"]

    assert folder.watched() == ["3 None"]
    assert log.lines() == []


def test_an_empty_file_is_reported_once(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", "")
    for _ in range(3):
        assert folder.watched() == []
    assert folder.files.errors == {"batches.d/a.yaml": False}
    assert log.lines() == ["INFO batch file loaded file=batches.d/a.yaml batches=0 errors=0"]


def test_a_file_is_parsed_only_when_it_changed(folder: Folder, parsed: list[str]) -> None:
    folder.write("a.yaml", entry(1))
    folder.write("b.yaml", "- [")
    for _ in range(5):
        folder.files.refresh()
    assert parsed == ["a.yaml", "b.yaml"]
    folder.write("b.yaml", entry(2))
    for _ in range(5):
        folder.files.refresh()
    assert parsed == ["a.yaml", "b.yaml", "b.yaml"]


def test_what_is_exposed_stays_the_same_object_while_nothing_changes(folder: Folder) -> None:
    folder.write("a.yaml", entry(1))
    folder.files.refresh()
    batches, errors = folder.files.batches, folder.files.errors
    folder.files.refresh()
    assert folder.files.batches is batches
    assert folder.files.errors is errors
    folder.write("a.yaml", entry(2))
    folder.files.refresh()
    assert list(batches) == [REFS[1]]


def test_a_change_that_leaves_size_and_time_as_they_were_is_seen(folder: Folder) -> None:
    path = folder.write("a.yaml", entry(1))
    assert folder.watched() == ["1 None"]
    before = path.stat()
    path.write_text(entry(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert folder.watched() == ["2 None"]


def test_a_touched_file_is_not_logged_again(folder: Folder, log: Log, parsed: list[str]) -> None:
    path = folder.write("a.yaml", "- x\n" + entry(1))
    folder.files.refresh()
    assert len(log.lines()) == 2
    path.touch()
    folder.write("a.yaml", "- x\n" + entry(1))
    folder.files.refresh()
    assert (log.lines(), parsed) == ([], ["a.yaml"])


def test_a_new_comment_is_not_logged(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", entry(1))
    folder.files.refresh()
    log.lines()
    folder.write("a.yaml", entry(1) + "# the last of tonight\n")
    assert folder.watched() == ["1 None"]
    assert log.lines() == []


@pytest.mark.parametrize("garbage", ["- [", "a: b", "- \0", f"{'[' * 100}"])
def test_what_cannot_be_parsed_keeps_its_last_good_content(garbage: str, folder: Folder, log: Log) -> None:
    folder.write("a.yaml", entry(1) + entry(2))
    folder.files.refresh()
    log.lines()

    folder.write("a.yaml", garbage)
    for _ in range(3):
        assert folder.watched() == ["1 None", "2 None"]
        assert folder.files.errors == {"batches.d/a.yaml": True}
    (line,) = log.lines()
    assert line.startswith(f"ERROR {folder.batches}/a.yaml:")
    assert line.endswith(" file=batches.d/a.yaml batches_kept=2")

    folder.write("a.yaml", entry(1) + entry(2))
    assert folder.watched() == ["1 None", "2 None"]
    assert folder.files.errors == {"batches.d/a.yaml": False}
    assert log.lines() == ["INFO batch file loaded file=batches.d/a.yaml batches=2 errors=0"]


def test_a_file_that_was_never_valid_has_no_batches_and_leaves_the_others_alone(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", "- [")
    folder.write("b.yaml", entry(1))
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d/a.yaml": True, "batches.d/b.yaml": False}
    assert [line.split()[0] for line in log.lines()] == ["ERROR", "INFO"]


def test_valid_entries_count_and_each_invalid_one_is_reported_once(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", entry(1) + "- x\n")
    for _ in range(3):
        assert folder.watched() == ["1 None"]
        assert folder.files.errors == {"batches.d/a.yaml": True}
    first, second = log.lines()
    assert first == "INFO batch file loaded file=batches.d/a.yaml batches=1 errors=1"
    assert second.startswith(f"WARNING {folder.batches}/a.yaml:2: [1]: expected a UUID")

    folder.write("a.yaml", entry(1) + "- x\n" + entry(2) + "- y\n")
    assert folder.watched() == ["1 None", "2 None"]
    first, second = log.lines()
    assert first == "INFO batch file loaded file=batches.d/a.yaml batches=2 errors=2"
    assert second.startswith(f"WARNING {folder.batches}/a.yaml:4: [3]: expected a UUID")

    folder.write("a.yaml", entry(1))
    folder.files.refresh()
    assert folder.files.errors == {"batches.d/a.yaml": False}


def test_a_file_of_mistakes_does_not_flood_the_log(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", "- x\n" * (MAX_WARNINGS + 7))
    folder.files.refresh()
    lines = log.lines()
    assert len(lines) == 1 + MAX_WARNINGS + 1
    assert lines[-1] == "WARNING and 7 more like this"


def test_of_two_files_that_do_not_agree_the_first_name_counts_and_one_warning_is_given(
    folder: Folder, log: Log
) -> None:
    folder.write("b.yaml", entry(1, "orders"))
    folder.files.refresh()
    log.lines()
    folder.write("a.yaml", entry(2) + entry(1, "guests"))
    folder.write("c.yaml", entry(1, "guests"))
    for _ in range(3):
        assert folder.watched() == ["2 None", "1 guests"]
    warning = f"{REFS[1]} differs in feed, labels or replaces from batches.d/a.yaml, which takes precedence"
    assert [line for line in log.lines() if "loaded" not in line] == [f"WARNING batches.d/b.yaml: {warning}"]
    assert not any(folder.files.errors.values())

    folder.write("d.yaml", entry(3))
    folder.files.refresh()
    assert log.lines() == ["INFO batch file loaded file=batches.d/d.yaml batches=1 errors=0"]
    folder.write("b.yaml", entry(1, "guests"))
    folder.files.refresh()
    assert len(log.lines()) == 1
    folder.write("b.yaml", entry(1, "orders"))
    folder.files.refresh()
    assert log.lines()[-1] == f"WARNING batches.d/b.yaml: {warning}"


def test_upper_case_is_not_a_conflict(folder: Folder, log: Log) -> None:
    folder.write("a.yaml", f"- {REFS[1]}\n")
    folder.write("b.yaml", f"- {REFS[1].upper()}\n")
    assert folder.watched() == ["1 None"]
    assert [line.split()[0] for line in log.lines()] == ["INFO", "INFO"]


def test_hidden_files_and_folders_and_other_names_are_not_looked_at(folder: Folder) -> None:
    (folder.batches / ".a.yaml").write_text(entry(1))
    (folder.batches / "a.yaml~").write_text(entry(2))
    (folder.batches / "old.yaml").mkdir()
    assert folder.watched() == []
    assert folder.files.errors == {}


def test_links_are_followed_and_a_dangling_one_is_not_a_file(folder: Folder) -> None:
    (folder.path / "real").write_text(entry(1))
    (folder.batches / "a.yaml").symlink_to("../real")
    (folder.batches / "b.yaml").symlink_to("../none")
    assert folder.watched() == ["1 None"]
    (folder.path / "real").write_text(entry(2))
    assert folder.watched() == ["2 None"]
    assert folder.files.errors == {"batches.d/a.yaml": False}


def test_a_volume_of_kubernetes_that_swaps_its_links_is_followed(folder: Folder, log: Log) -> None:
    for number, version in enumerate(["..1", "..2"], start=1):
        (folder.batches / version).mkdir()
        (folder.batches / version / "a.yaml").write_text(entry(number))
    (folder.batches / "..data").symlink_to("..1")
    (folder.batches / "a.yaml").symlink_to("..data/a.yaml")
    assert folder.watched() == ["1 None"]
    (folder.batches / "..new").symlink_to("..2")
    (folder.batches / "..new").rename(folder.batches / "..data")
    assert folder.watched() == ["2 None"]
    assert len(log.lines()) == 2


def test_a_file_that_cannot_be_read_keeps_its_content_and_is_tried_again(folder: Folder, log: Log) -> None:
    path = folder.write("a.yaml", entry(1))
    folder.files.refresh()
    log.lines()
    path.unlink()
    path.symlink_to("a.yaml")
    for _ in range(2):
        assert folder.watched() == ["1 None"]
        assert folder.files.errors == {"batches.d/a.yaml": True}
    assert log.lines() == [
        f"ERROR {path}: cannot be read: Too many levels of symbolic links file=batches.d/a.yaml batches_kept=1"
    ]
    path.unlink()
    folder.write("a.yaml", entry(1))
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d/a.yaml": False}
    assert log.lines() == ["INFO batch file loaded file=batches.d/a.yaml batches=1 errors=0"]


def test_what_cannot_be_read_is_reported_in_one_line(tmp_path: Path, log: Log) -> None:
    (tmp_path / "a\nb").symlink_to("a\nb")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    BatchFiles([str(tmp_path / name) for name in ("a\nb", "folder", "large", "none", "pipe")], tmp_path).refresh()
    assert log.lines() == [
        f"ERROR {tmp_path}/a\\nb: cannot be read: Too many levels of symbolic links file=a\\nb batches_kept=0",
        f"ERROR {tmp_path}/folder: cannot be read: Is a directory file=folder batches_kept=0",
        f"ERROR {tmp_path}/large: larger than 10,485,760 bytes file=large batches_kept=0",
        f"ERROR {tmp_path}/pipe: not a file file=pipe batches_kept=0",
    ]


def test_a_file_that_was_unreachable_for_a_while_is_used_again_though_unchanged(folder: Folder) -> None:
    folder.write("a.yaml", entry(1))
    folder.files.refresh()
    folder.batches.rename(folder.path / "away")
    folder.batches.symlink_to("batches.d")
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d": True, "batches.d/a.yaml": True}
    folder.batches.unlink()
    (folder.path / "away").rename(folder.batches)
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d/a.yaml": False}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_permission_that_is_given_later_is_noticed(folder: Folder) -> None:
    path = folder.write("a.yaml", entry(1))
    path.chmod(0o000)
    assert folder.watched() == []
    assert folder.files.errors == {"batches.d/a.yaml": True}
    path.chmod(0o600)
    assert folder.watched() == ["1 None"]


def test_a_named_pipe_does_not_block(folder: Folder) -> None:
    os.mkfifo(folder.batches / "a.yaml")
    assert folder.watched() == []
    assert folder.files.errors == {"batches.d/a.yaml": True}


def test_a_file_that_vanishes_between_listing_and_reading_is_not_an_error(
    folder: Folder, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.yaml", entry(1))

    def unlink_and_read(path: Path, _max_bytes: int) -> bytes:
        path.unlink()
        return path.read_bytes()

    monkeypatch.setattr(module, "read_regular_file", unlink_and_read)
    assert folder.watched() == []
    assert (folder.files.errors, log.lines()) == ({}, [])


def test_a_file_that_is_replaced_between_looking_and_reading_is_read_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.yaml", entry(1))

    def read_and_replace(path: Path, max_bytes: int) -> bytes:
        content = read_regular_file(path, max_bytes)
        monkeypatch.setattr(module, "read_regular_file", read_regular_file)
        folder.write("a.yaml", entry(2))
        return content

    monkeypatch.setattr(module, "read_regular_file", read_and_replace)
    assert folder.watched() == ["1 None"]
    assert folder.watched() == ["2 None"]


def test_a_folder_that_cannot_be_listed_does_not_look_like_an_empty_one(
    folder: Folder, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its listing fails as it does without permission to read it; its files can still be opened by name."""
    folder.write("a.yaml", entry(1))
    folder.write("b.yaml", entry(2))
    folder.files.refresh()
    log.lines()
    (folder.batches / "b.yaml").unlink()
    with monkeypatch.context() as patch:

        def refuse(path: object) -> None:
            raise PermissionError(13, "Permission denied", path)

        patch.setattr(os, "scandir", refuse)
        for _ in range(2):
            assert folder.watched() == ["1 None"]
            assert folder.files.errors == {"batches.d": True, "batches.d/a.yaml": False}
    lines = log.lines()
    assert [line.split()[0] for line in lines] == ["ERROR", "INFO"]
    assert lines[0].startswith(f"ERROR {folder.batches}: cannot be read")
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d/a.yaml": False}


def test_a_folder_that_is_a_link_to_itself_is_an_error_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "batches.d").symlink_to("batches.d")
    files = BatchFiles([str(tmp_path / "batches.d/*.yaml")], tmp_path)
    files.refresh()
    assert files.errors == {"batches.d": True}
    (tmp_path / "batches.d").unlink()
    (tmp_path / "batches.d").mkdir()
    files.refresh()
    assert files.errors == {}


def test_a_folder_that_does_not_exist_yet_is_not_an_error(tmp_path: Path) -> None:
    files = BatchFiles([str(tmp_path / "none/*.yaml"), str(tmp_path / "none/*/x.yaml")], tmp_path)
    files.refresh()
    assert (files.batches, files.errors) == ({}, {})


def test_a_path_without_wildcards_may_appear_later_and_must_not_be_a_folder(tmp_path: Path) -> None:
    files = BatchFiles([str(tmp_path / "tonight.yaml"), str(tmp_path / "batches.d")], tmp_path)
    files.refresh()
    assert files.errors == {}
    (tmp_path / "tonight.yaml").write_text(entry(1))
    (tmp_path / "batches.d").mkdir()
    files.refresh()
    assert files.errors == {"batches.d": True, "tonight.yaml": False}
    assert list(files.batches) == [REFS[1]]


def test_files_are_named_as_matched_and_relative_to_the_folder_of_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("a\nb.yaml", "etc/c.yaml", "etc/\udcff.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    patterns = [f"{tmp_path}/*.yaml", f"{tmp_path}/etc/*.yaml", f"{tmp_path}/etc/c.yaml"]
    files = BatchFiles(patterns, Path("etc"))
    files.refresh()
    assert set(files.errors) == {f"{tmp_path}/a\\nb.yaml", "c.yaml", "\\udcff.yaml"}
    assert all(name.isprintable() for name in files.errors)


def test_other_patterns_forget_the_files_of_before_and_keep_what_still_matches(folder: Folder) -> None:
    folder.write("a.yaml", entry(1))
    folder.write("b.yaml", entry(2))
    folder.files.refresh()
    folder.write("a.yaml", "- [")
    folder.files.watch([str(folder.batches / "a*")])
    assert list(folder.files.batches) == [REFS[1], REFS[2]]
    assert folder.watched() == ["1 None"]
    assert folder.files.errors == {"batches.d/a.yaml": True}
    folder.files.watch([])
    assert folder.watched() == []


def test_a_disk_that_hangs_leaves_the_batches_and_blocks_neither_readers_nor_a_reload(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.yaml", entry(1))
    assert folder.watched() == ["1 None"]
    disk = HangingDisk(monkeypatch, module)
    folder.write("a.yaml", entry(2))
    folder.files.refresh(timeout=0)
    assert disk.reading.wait(MAX_WAIT)
    for _ in range(20):
        folder.files.refresh(timeout=0)
    assert (list(folder.files.batches), folder.files.errors) == ([REFS[1]], {"batches.d/a.yaml": False})
    folder.files.watch([str(folder.batches / "b*")])
    disk.go_on.set()
    assert folder.watched() == []


def test_many_threads_may_refresh_while_files_change(folder: Folder) -> None:
    seen: list[set[str]] = []
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            folder.files.refresh()
            seen.append(set(folder.files.batches))

    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        folder.write("a.yaml", entry(number % 2) + entry(2 + number % 2))
    stop.set()
    for thread in threads:
        thread.join()
    assert {frozenset(refs) for refs in seen} <= {
        frozenset(),
        frozenset({REFS[0], REFS[2]}),
        frozenset({REFS[1], REFS[3]}),
    }
    assert folder.watched() == ["1 None", "3 None"]


def test_refreshing_leaves_no_file_open(folder: Folder) -> None:
    folder.write("a.yaml", entry(1))
    folder.write("b.yaml", "- [")
    os.mkfifo(folder.batches / "c.yaml")
    folder.files.watch([str(folder.batches / "*.yaml"), str(folder.batches)])
    folder.files.refresh()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        folder.files.refresh()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


NAMES = st.sampled_from(["a.yaml", "b.yaml", "c.yaml"])
GOOD = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["guests", "orders"])), max_size=4)
GARBAGE = st.sampled_from(["- [", "x: y", "- \0", "x"])


class ChangingFiles(RuleBasedStateMachine):
    """Random changes of three files; after each, or after several, what is exposed is what the model says.

    The model: for each file its last good entries, and whether something is wrong with what it has now.
    """

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.folder = Folder(Path(self.directory.name))
        self.on_disk: dict[str, str] = {}
        self.good: dict[str, list[tuple[int, str]]] = {}
        self.wrong: dict[str, bool] = {}

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    def put(self, name: str, content: str, *, in_place: bool) -> None:
        if in_place:
            (self.folder.batches / name).write_text(content)
        else:
            self.folder.write(name, content)
        self.on_disk[name] = content

    @rule(name=NAMES, entries=GOOD, bad_entry=st.booleans(), in_place=st.booleans())
    def write(self, name: str, entries: list[tuple[int, str]], bad_entry: bool, in_place: bool) -> None:  # noqa: FBT001  Hypothesis names them.
        text = "".join(entry(number, feed) for number, feed in entries)
        self.put(name, text + "- nightly\n" * bad_entry, in_place=in_place)

    @rule(name=NAMES, garbage=GARBAGE, in_place=st.booleans())
    def write_garbage(self, name: str, garbage: str, in_place: bool) -> None:  # noqa: FBT001  Likewise.
        self.put(name, garbage, in_place=in_place)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.folder.batches / name).unlink(missing_ok=True)
        self.on_disk.pop(name, None)

    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        if name in self.on_disk:
            (self.folder.batches / name).rename(self.folder.batches / other)
            self.on_disk[other] = self.on_disk.pop(name)

    @rule()
    def refresh(self) -> None:
        self.folder.files.refresh()
        for name in ("a.yaml", "b.yaml", "c.yaml"):
            self.look_at(name)
        self.compare()

    def look_at(self, name: str) -> None:
        """What the model makes of a file at a refresh."""
        content = self.on_disk.get(name)
        if content is None:
            self.good.pop(name, None)
            self.wrong.pop(name, None)
            return
        if content and not content.startswith("- {") and content != "- nightly\n":
            self.wrong[name] = True
            self.good.setdefault(name, [])
            return
        entries = [(REFS.index(ref), feed) for ref, feed in re.findall(r"ref: (\S+), feed: (\w+)", content)]
        feeds: dict[int, str] = {}
        for number, feed in entries:
            feeds.setdefault(number, feed)
        self.good[name] = list(feeds.items())
        self.wrong[name] = "nightly" in content or any(feeds[number] != feed for number, feed in entries)

    def compare(self) -> None:
        feeds: dict[int, str] = {}
        for name in sorted(self.good):
            for number, feed in self.good[name]:
                feeds.setdefault(number, feed)
        assert list(self.folder.files.batches.items()) == [
            (REFS[number], WatchedBatch(ref=REFS[number], feed=feed)) for number, feed in feeds.items()
        ]
        assert self.folder.files.errors == {f"batches.d/{name}": wrong for name, wrong in self.wrong.items()}

    @invariant()
    def nothing_is_exposed_that_was_not_seen(self) -> None:
        if hasattr(self, "folder"):
            self.compare()


ChangingFiles.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestChangingFiles = ChangingFiles.TestCase
