"""The watch list of a running exporter, as batch files and signals change it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, LabelSet, running_exporter
from tools.program import wait_for
from tools.sandbox import Sandbox

FIRST, SECOND, THIRD = (f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(3))
RELOADED = "sitecore_cdp_exporter_config_last_reload_successful"
FILE_ERROR = "sitecore_cdp_exporter_batch_file_error"


def labels(**values: str) -> LabelSet:
    return frozenset(values.items())


def refs(exporter: Exporter) -> set[str]:
    return {dict(each)["ref"] for each in exporter.scrape().get("sitecore_cdp_batch_accepted", ())}


def write(path: Path, text: str) -> None:
    """Write a file as it should be written: aside, and then renamed."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def list_batch(folder: Path, ref: str) -> None:
    script = str(ROOT / "examples" / "list_batch.py")
    subprocess.run([sys.executable, script, "--feed=nightly-guests", str(folder), ref], check=True)


def reload(exporter: Exporter, *, successful: bool) -> None:
    """Send SIGHUP, and wait for what comes of it."""
    exporter.program.process.send_signal(signal.SIGHUP)
    wait_for(
        "the reload",
        lambda: exporter.scrape()[RELOADED] == {frozenset(): float(successful)},
        programs=[exporter.program],
    )


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        for ref in (FIRST, SECOND, THIRD):
            sandbox.put_batch(ref, status="success", total=7)
        yield sandbox


def test_a_batch_file_appears_changes_and_vanishes(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "batches.d"
    feeds = [{"name": "nightly-guests", "labels": {"team": "crm"}}]
    with running_exporter(sandbox, tmp_path, batch_files=["batches.d/*.yaml"], feeds=feeds) as exporter:
        assert refs(exporter) == set()
        folder.mkdir()
        list_batch(folder, FIRST)
        scraped = exporter.scrape()
        assert set(scraped["sitecore_cdp_batch_accepted"]) == {labels(ref=FIRST, feed="nightly-guests", team="crm")}
        (file,) = folder.glob("*.yaml")
        name = labels(file=f"batches.d/{file.name}")
        assert scraped[FILE_ERROR] == {name: 0.0}

        list_batch(folder, SECOND)
        scraped = exporter.scrape()
        assert scraped["sitecore_cdp_watched_batches"][labels(source="file")] == 2
        assert refs(exporter) == {FIRST, SECOND}

        write(file, "- [half")
        assert exporter.scrape()[FILE_ERROR] == {name: 1.0}
        assert refs(exporter) == {FIRST, SECOND}

        write(file, f"- {SECOND}\n- nonsense\n- {THIRD}\n")
        assert exporter.scrape()[FILE_ERROR] == {name: 1.0}
        assert refs(exporter) == {SECOND, THIRD}

        write(file, f"- {SECOND}\n")
        assert exporter.scrape()[FILE_ERROR] == {name: 0.0}
        assert refs(exporter) == {SECOND}

        file.unlink()
        assert FILE_ERROR not in exporter.scrape()
        assert refs(exporter) == set()
        log = exporter.program.output()
    # One line for each change, however many scrapes there were: two lists, one that is mended in part, one in whole.
    assert log.count("batch file loaded") == 4
    assert log.count("batch file is gone") == 1
    assert log.count("expected a UUID") == 1
    assert "Traceback" not in log


def test_a_sighup_changes_files_and_batches_or_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write(tmp_path / "first.yaml", f"- {FIRST}\n")
    write(tmp_path / "second.yaml", f"- {SECOND}\n")
    with running_exporter(sandbox, tmp_path, batch_files=["first.yaml"]) as exporter:
        assert refs(exporter) == {FIRST}
        sections = yaml.safe_load(config.read_text(encoding="utf-8"))
        good = yaml.safe_dump(sections | {"batch_files": ["second.yaml"], "batches": [THIRD]})
        write(config, f"{good}nonsense: true\n")
        reload(exporter, successful=False)
        assert refs(exporter) == {FIRST}
        assert "nonsense: unknown key" in exporter.program.output()

        write(config, good)
        reload(exporter, successful=True)
        assert refs(exporter) == {SECOND, THIRD}

        os.truncate(config, 0)
        reload(exporter, successful=False)
        assert refs(exporter) == {SECOND, THIRD}
    # What has finished is not asked again because of a reload.
    asked = [entry.path for entry in sandbox.requests if entry.path.endswith(SECOND)]
    assert len(asked) == 1
