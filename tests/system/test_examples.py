"""examples/list_batch.py, and what docs/refs.md says an uploader should do. examples/upload.py is in test_upload.py."""

import argparse
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sitecore_cdp_exporter.config.model import WatchedBatch, load_config
from sitecore_cdp_exporter.config.names import RESERVED_LABELS
from sitecore_cdp_exporter.watch.batch_files import BatchFiles, parse_batch_file
from tests.system.example_script import load_example
from tests.watch.test_batch_file import read_batch_file
from tools.exporter_program import ROOT

LIST_BATCH = ROOT / "examples" / "list_batch.py"
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
REFS_PAGE = (ROOT / "docs" / "refs.md").read_text(encoding="utf-8")
AT_ONCE = 8
# The snippets print one ref; so many show that no two are the same.
RUNS = 50
SCRIPT = load_example("list_batch")


def list_batch(folder: Path, ref: str | bytes, *options: str | bytes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LIST_BATCH), *options, str(folder), ref]
    return subprocess.run([os.fsencode(part) for part in command], capture_output=True, text=True, check=False)


def watched(folder: Path) -> BatchFiles:
    return BatchFiles([f"{folder}/*.yaml"], folder)


def test_a_batch_is_listed_with_its_feed_and_labels(tmp_path: Path) -> None:
    other = str(uuid4())
    assert (
        list_batch(
            tmp_path, REF.upper(), "--feed=nightly-guests", "--label=team=crm", "--label=place=Kraków 🐉"
        ).returncode
        == 0
    )
    assert list_batch(tmp_path, other).returncode == 0
    files = watched(tmp_path)
    files.refresh()
    assert [(batch.ref, batch.feed, batch.labels) for batch in files.batches.values()] == [
        (REF, "nightly-guests", {"team": "crm", "place": "Kraków 🐉"}),
        (other, None, {}),
    ]
    assert not any(files.errors.values())


def test_what_people_wrote_into_the_file_stays(tmp_path: Path) -> None:
    list_batch(tmp_path, REF)
    (file,) = tmp_path.iterdir()
    own = str(uuid4())
    file.write_text(f"# Ours.\n- {own}", encoding="utf-8")  # No end of line.
    list_batch(tmp_path, REF)
    batches, errors = read_batch_file(file)
    assert ([batch.ref for batch in batches], errors) == ([own, REF], ())
    assert "# Ours." in file.read_text(encoding="utf-8")


def test_pipelines_at_once_lose_nothing_and_the_exporter_never_reads_half_a_file(tmp_path: Path) -> None:
    files = watched(tmp_path)
    refs = [str(uuid4()) for _ in range(AT_ONCE)]
    before: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as pipelines:
        listed = [pipelines.submit(list_batch, tmp_path, ref, "--feed=nightly-guests") for ref in refs]
        while not all(pipeline.done() for pipeline in listed):
            files.refresh()
            assert not any(files.errors.values())
            assert before <= files.batches.keys()
            before = set(files.batches)
    assert [pipeline.result().returncode for pipeline in listed] == [0] * AT_ONCE
    files.refresh()
    assert files.batches.keys() == set(refs)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_dead_pipeline_left_half_written_is_removed(tmp_path: Path) -> None:
    list_batch(tmp_path, REF)
    (file,) = tmp_path.iterdir()
    left = file.with_name(f".{file.name}")
    left.write_text("- half a li", encoding="utf-8")
    other = str(uuid4())
    assert list_batch(tmp_path, other).returncode == 0
    assert not left.exists()
    files = watched(tmp_path)
    files.refresh()
    assert list(files.batches) == [REF, other]


@pytest.mark.parametrize(
    ("folder", "ref", "options", "error"),
    [
        ("there", "nightly", [], "ref: expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009"),
        ("there", f"{{{REF}}}", [], "ref: expected a UUID"),
        ("there", REF, ["--replaces=nightly"], "replaces: expected a UUID"),
        ("there", REF, [f"--replaces={REF.upper()}"], "replaces: must name other batches, not this one"),
        ("there", REF, ["--label=team"], "expected name=value"),
        ("there", REF, ["--label=severity=page"], "labels.severity: this label name is reserved"),
        ("there", REF, ["--label=team=crm", "--label=team=web"], "labels.team: duplicate key"),
        # From a variable that is not set.
        ("there", REF, ["--feed="], "feed: must have at least one character"),
        ("missing/folder", REF, [], "missing/folder: No such file or directory"),
    ],
)
def test_a_mistake_is_shown_in_one_line_and_nothing_is_written(
    folder: str,
    ref: str,
    options: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(sys, "argv", ["list_batch.py", *options, str(tmp_path / folder), ref])
    with pytest.raises(SystemExit) as ended:
        SCRIPT.main()
    # argparse prints its message itself.
    message = capsys.readouterr().err if ended.value.code == 2 else str(ended.value.code)
    assert (ended.value.code == 2) == ("name=value" in error)
    assert error in message.splitlines()[-1]
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


@pytest.mark.parametrize(
    ("ref", "options", "status", "error"),
    [
        (REF, [b"--feed=caf\xe9"], 1, "feed: must have at least one character"),
        (REF, [b"--label=place=caf\xe9"], 1, "labels: expected valid Unicode"),
        (b"caf\xe9", [], 1, "ref: expected a UUID"),
        (REF, [b"--caf\xe9"], 2, "unrecognized arguments"),
    ],
)
def test_a_variable_that_is_not_utf_8_is_a_mistake_and_nothing_is_written(
    ref: str | bytes, options: list[bytes], status: int, error: str, tmp_path: Path
) -> None:
    listed = list_batch(tmp_path, ref, *options)
    assert listed.returncode == status
    assert error in listed.stderr.splitlines()[-1]
    assert "Traceback" not in listed.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_replaces_a_failed_one_lists_its_ref(tmp_path: Path) -> None:
    failed = [str(uuid4()), str(uuid4())]
    assert list_batch(tmp_path, REF, *(f"--replaces={ref.upper()}" for ref in failed)).returncode == 0
    files = watched(tmp_path)
    files.refresh()
    assert [(batch.ref, list(batch.replaces)) for batch in files.batches.values()] == [(REF, failed)]


def test_a_batch_is_listed_once_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    assert list_batch(tmp_path, REF).returncode == 0
    assert list_batch(tmp_path, str(uuid4()), "--feed=crm").returncode == 0
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert list_batch(tmp_path, REF.upper()).returncode == 0
    contradiction = list_batch(tmp_path, REF, "--feed=crm")
    assert file.read_bytes() == content
    assert contradiction.returncode == 1
    assert contradiction.stderr == "ref: duplicate ref with a different feed, labels or replaces\n"
    file.write_bytes(content + f'- {{"ref": "{REF}", "feed": "crm"}}\n'.encode())
    _, (error,) = read_batch_file(file)
    assert contradiction.stderr.strip().removeprefix("ref: ") in error


def test_all_mistakes_are_shown_at_once(tmp_path: Path) -> None:
    listed = list_batch(tmp_path, "nightly", "--feed=a\tb", "--label=job=x")
    assert [line.partition(":")[0] for line in listed.stderr.splitlines()] == ["ref", "feed", "labels.job"]


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_exporter_can_read_the_file_and_its_folder_with_any_umask(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "batches.d"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(LIST_BATCH), str(folder), str(uuid4())], umask=umask, capture_output=True, check=True
        )
        assert done.stderr == b""
    (file,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o755, 0o644]


def test_the_mode_of_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "batches.d"
    folder.mkdir(mode=0o750)
    assert list_batch(folder, REF).returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


# Surrogates, which stand for bytes that are not UTF-8, included.
ANY_TEXT = st.text(st.characters())


@given(
    feed=st.none() | ANY_TEXT,
    name=st.from_regex(r"[a-z_]{1,3}", fullmatch=True) | st.sampled_from(RESERVED_LABELS) | ANY_TEXT,
    # YAML has no surrogates, and no rule of the model refuses them; the script does, as the next test shows.
    value=st.text(),
)
@example(feed="yes", name="no", value="null")
@example(feed="0100", name="a", value="1e3")
@example(feed="2026-11-26", name="y", value="12:30:45")
@example(feed=" a ", name="a", value=" \n\ta ")
@example(feed="a: b # c", name="a", value="\"'\\{}[]&*!|>%@`")
@example(feed="a\x85b", name="a", value="a\x85b")
@example(feed="shop \x96 night", name="a", value="\x7f\x80\x9f\x00")
@example(feed="a\u2028b\u2029", name="a", value="\u2028\u2029\ufeff")
@example(feed="\ufeffa", name="a", value="\ufffe\uffff\U0001f409\U000e0001\U0010ffff")
@example(feed="a", name="__a", value="")
@example(feed="", name="", value="")
@settings(deadline=None)
def test_the_exporter_reads_each_text_as_it_was_given_or_both_refuse_it_with_the_same_words(
    feed: str | None, name: str, value: str
) -> None:
    options = argparse.Namespace(ref=REF, feed=feed, label=[(name, value)], replaces=[])
    entry = {"ref": REF, "labels": {name: value}} | ({} if feed is None else {"feed": feed})
    try:
        batch = WatchedBatch.model_validate(entry)
    except ValidationError as error:
        words = {problem["msg"].removeprefix("Value error, ") for problem in error.errors()}
        assert {problem.partition(": ")[2] for problem in SCRIPT.problems_of(options)} == words
        return
    assert SCRIPT.problems_of(options) == []
    read = parse_batch_file(Path("batches.yaml"), SCRIPT.entry_line(options).encode())
    assert (read.batches, read.errors) == ((batch,), ())


@pytest.mark.parametrize(("feed", "value"), [("\udcff", "crm"), (None, "\udcff")])
def test_text_that_is_not_utf_8_is_refused_by_the_script(feed: str | None, value: str) -> None:
    options = argparse.Namespace(ref=REF, feed=feed, label=[("team", value)], replaces=[])
    assert len(SCRIPT.problems_of(options)) == 1


def snippet(language: str, containing: str = "") -> str:
    (found,) = (text for text in re.findall(rf"(?s)```{language}\n(.*?)```", REFS_PAGE) if containing in text)
    return str(found)


@pytest.mark.parametrize(
    "program",
    [
        # Many refs of one process.
        ["bash", "-e", "-c", f"for run in {{1..{RUNS}}}; do\n{snippet('bash')}done"],
        [sys.executable, "-c", f"for run in range({RUNS}):\n" + re.sub("(?m)^", "    ", snippet("python"))],
    ],
    ids=["bash", "Python"],
)
def test_a_ref_with_a_prefix_is_a_random_uuid_of_version_4(program: list[str]) -> None:
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    refs = [UUID(line) for line in printed]
    assert [str(ref) for ref in refs] == printed
    assert {(ref.version, ref.variant, printed[0][:8]) for ref in refs} == {(4, RFC_4122, "5a0c2f0e")}
    assert len(set(refs)) == RUNS
    # Each of the other digits is random, but those of version and variant.
    digits = list(zip(*(ref.hex for ref in refs), strict=True))
    assert [place for place, seen in enumerate(digits) if len(set(seen)) == 1] == [*range(8), 12]


def test_the_snippets_and_the_config_have_the_same_prefix(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(snippet("yaml"), encoding="utf-8")
    (feed,) = load_config(config).feeds
    assert feed.ref_prefix == "5a0c2f0e"
    assert all(f"'{feed.ref_prefix}'" in text for text in [snippet("powershell")])


def test_the_command_for_a_prefix_gives_one_that_a_config_takes(tmp_path: Path) -> None:
    prefix = subprocess.run(
        ["bash", "-c", snippet("sh", "token_hex")], capture_output=True, text=True, check=True
    ).stdout.strip()
    config = tmp_path / "config.yaml"
    config.write_text(snippet("yaml").replace("5a0c2f0e", prefix), encoding="utf-8")
    assert [feed.ref_prefix for feed in load_config(config).feeds] == [prefix]
