"""The scripts of examples/, and what docs/refs.md tells an uploader to do."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import RFC_4122, UUID, uuid4

import pytest

from sitecore_cdp_exporter.config.model import load_config
from sitecore_cdp_exporter.watch.batch_files import BatchFiles
from tests.exporter_program import ROOT
from tests.watch.test_batch_file import read_batch_file

LIST_BATCH = ROOT / "examples" / "list_batch.py"
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
REFS_PAGE = (ROOT / "docs" / "refs.md").read_text(encoding="utf-8")
AT_ONCE = 20
# The snippets print one ref; so many show that no two are the same.
RUNS = 50


def list_batch(folder: Path, ref: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LIST_BATCH), *options, str(folder), ref]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


def test_a_pipeline_that_died_while_it_wrote_does_no_harm(tmp_path: Path) -> None:
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
    ("folder", "ref", "options", "told"),
    [
        ("there", "nightly", [], "invalid UUID value: 'nightly'"),
        ("there", REF, ["--label=team"], "expected name=value"),
        ("missing", REF, [], "missing: No such file or directory"),
    ],
)
def test_a_mistake_is_told_in_one_line(folder: str, ref: str, options: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    listed = list_batch(tmp_path / folder, ref, *options)
    assert listed.returncode != 0
    assert told in listed.stderr.splitlines()[-1]
    assert list((tmp_path / "there").iterdir()) == []


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
