"""What docs/install.md, docs/listing.md, docs/sandbox.md and a part of docs/configuration.md show is what happens."""

import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config.model import load_config
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, LabelSet, running_exporter
from tests.markdown import block, blocks, rows
from tests.shell import from_elsewhere, run_bash
from tools.program import running, wait_for
from tools.sandbox import Sandbox

INSTALL = ROOT / "docs" / "install.md"
LISTING = ROOT / "docs" / "listing.md"
SANDBOX = ROOT / "docs" / "sandbox.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"


def test_every_block_is_run_by_a_test() -> None:
    assert [(block.heading, block.language) for page in (INSTALL, LISTING, SANDBOX) for block in blocks(page)] == [
        ("In a clone", "sh"),
        ("In a clone", "sh"),
        ("A wheel", "sh"),  # In test_packaging.
        ("A wheel", "sh"),  # In test_packaging.
        ("The image", "sh"),  # By .ci/build-image, without Docker.
        ("After the first release", "sh"),  # Its names are compared in test_packaging.
        ("Discovery", "yaml"),
        ("Batch files", "yaml"),
        ("Batch files", "sh"),
        ("Batch files", "json"),
        ("Batch files", "sh"),
        ("In the config", "yaml"),
        ("Prometheus' service discovery", "yaml"),
        ("Upload a file", "sh"),
        ("Upload a file", "sh"),
        ("Break it", "sh"),
    ]


def test_the_exporter_of_a_clone_is_called_with_make_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    without, with_make = (block(INSTALL, "In a clone", "sh", number) for number in range(2))
    program, flags = re.fullmatch(r"(.* exporter.py) (.*)\n", without).groups()  # type: ignore[union-attr]
    # There it is called so.
    assert f"\n{program} " in block(SANDBOX, "Upload a file", "sh", 1)
    with pytest.raises(SystemExit):
        main(shlex.split(flags))
    assert capsys.readouterr().out == f"sitecore-cdp-batch-exporter {__version__}\n"
    dry = run_bash(with_make.replace("make", "make --no-print-directory --dry-run INSTALL=:"), ROOT).stdout
    assert dry.endswith(" exporter.py --config.file='config.yaml' --once --output=json\n")


@pytest.mark.parametrize("heading", ["Discovery", "Batch files", "In the config"])
def test_configs_are_valid(heading: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(block(LISTING, heading, "yaml"), encoding="utf-8")
    loaded = load_config(config)
    assert loaded.batches or loaded.batch_files or loaded.discovery.enabled


def test_the_scrape_config_of_probes_is_the_one_that_is_shipped_and_tested() -> None:
    [shown] = yaml.safe_load(block(LISTING, "Prometheus' service discovery", "yaml"))["scrape_configs"]
    shipped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert shown in shipped["scrape_configs"]


def test_the_sandbox_takes_an_upload_and_fails_on_purpose_in_a_shell_with_real_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those that the README exports, in the same shell.
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", "your client key")
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", "your API token")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    run, upload, drill = (
        from_elsewhere(block(SANDBOX, heading, "sh", number)).replace("127.0.0.1:10312", address)
        for heading, number in (("Upload a file", 0), ("Upload a file", 1), ("Break it", 0))
    )
    run = run.replace("--speed=10", f"--speed=100 --listen-address={address}")
    with running(shlex.split(run), log=tmp_path / "sandbox.log") as program:
        wait_for("the sandbox to print its address", lambda: address in program.output(), programs=[program])
        assert re.search(r"(?m)^-  +\S+  success  +2  +0 ", run_bash(upload, tmp_path).stdout)

        down, slow, refusing, well = drill.splitlines()
        for command, status in ((down, 503), (refusing, 401), (well, 200)):
            run_bash(command, tmp_path)
            answer = requests.get(
                f"http://{address}/v2/batches/inspect", auth=("sandbox-client", "sandbox-token"), timeout=60
            )
            assert answer.status_code == status
        assert '"seconds": 8' in slow
        run_bash(slow.replace('"seconds": 8', '"seconds": 0.01'), tmp_path)


def test_the_record_that_is_shown_is_the_first_of_the_sample() -> None:
    sample = (ROOT / "examples" / "guests.jsonl").read_text(encoding="utf-8")
    assert sample.startswith(block(LISTING, "Batch files", "json"))


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Run a sandbox whose batches finish at once, with what uploaders read from the environment."""
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", CLIENT_KEY)
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", API_TOKEN)
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox:
        yield sandbox


def refs_of(samples: dict[str, dict[LabelSet, float]]) -> set[str]:
    return {dict(labels)["ref"] for labels in samples.get("sitecore_cdp_batch_poll_success", ())}


def test_a_pipeline_lists_its_batch_and_old_files_go(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "batches.d"
    sections = yaml.safe_load(block(LISTING, "Batch files", "yaml"))
    del sections["api"]
    pipeline = from_elsewhere(block(LISTING, "Batch files", "sh", 0))
    pipeline = pipeline.replace("https://api-engage-eu.sitecorecloud.io", sandbox.base_url)
    with running_exporter(sandbox, tmp_path, **sections) as exporter:
        assert refs_of(exporter.scrape()) == set()
        ref = run_bash(pipeline, tmp_path).stdout.strip()
        labels = frozenset({"ref": ref, "feed": "nightly-guests", "team": "crm"}.items())
        wait_for(
            "the batch to be processed",
            lambda: exporter.scrape().get("sitecore_cdp_batch_accepted") == {labels: 1.0},
            programs=[exporter.program],
        )
        (file,) = folder.iterdir()
        for days, kept in ((8, True), (9, False)):
            old = time.time() - days * 86400 - 60
            os.utime(file, (old, old))
            run_bash(block(LISTING, "Batch files", "sh", 1), tmp_path)
            assert file.exists() == kept
            assert refs_of(exporter.scrape()) == ({ref} if kept else set())


def test_discovery_knows_the_feed_by_its_prefix_and_all_paths_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    ref = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    sandbox.put_batch(ref, status="success", total=7)
    sections = yaml.safe_load(block(LISTING, "Discovery", "yaml"))
    del sections["api"]
    with running_exporter(sandbox, tmp_path, flags=["--web.enable-lifecycle"], **sections) as exporter:
        samples = exporter.scrape()
        paths = [row[0].strip("`").replace("REF", ref) for row in rows(CONFIGURATION) if row[0].startswith("`/")]
        answers = [requests.get(f"{exporter.url}{path}", timeout=60).status_code for path in paths]
    # Reload is a POST.
    assert answers == [200] * 6 + [405], paths
    assert set(samples["sitecore_cdp_batch_accepted"]) == {
        frozenset({"ref": ref, "feed": "nightly-guests", "team": "crm"}.items())
    }
    expected = {frozenset({"feed": "nightly-guests", "team": "crm"}.items()): 86400.0}
    assert samples["sitecore_cdp_feed_expected_interval_seconds"] == expected


def test_a_config_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *flags = shlex.split(block(CONFIGURATION, "Configuration", "sh"))
    assert program == "sitecore-cdp-batch-exporter"
    monkeypatch.chdir(tmp_path)
    config = block(CONFIGURATION, "Configuration", "yaml")
    Path("config.yaml").write_text(config, encoding="utf-8")
    assert main(flags) == 0
    assert "config.yaml is valid" in capsys.readouterr().out
    Path("config.yaml").write_text(config.replace("endpoint:", "endpont:"), encoding="utf-8")
    assert main(flags) == 1


def test_each_way_to_reload_takes_up_what_changed(sandbox: Sandbox, tmp_path: Path) -> None:
    by_signal, by_post = block(CONFIGURATION, "Reload", "sh").splitlines()
    first, second, third, fourth = (f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(4))
    config = tmp_path / "config.yaml"
    with running_exporter(sandbox, tmp_path, batches=[first], flags=["--web.enable-lifecycle"]) as exporter:
        by_signal = by_signal.replace("$PID", str(exporter.program.process.pid))
        by_post = by_post.replace("http://localhost:10311", exporter.url)
        config.write_text(config.read_text(encoding="utf-8").replace(first, second), encoding="utf-8")
        assert refs_of(exporter.scrape()) == {first}
        run_bash(by_signal, tmp_path)
        wait_for("the reload", lambda: refs_of(exporter.scrape()) == {second}, programs=[exporter.program])
        config.write_text(config.read_text(encoding="utf-8").replace(second, third), encoding="utf-8")
        run_bash(by_post, tmp_path)
        assert refs_of(exporter.scrape()) == {third}

        good = config.read_text(encoding="utf-8")
        config.write_text(f"{good}nonsense: true\n", encoding="utf-8")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run_bash(by_post, tmp_path)
        assert "nonsense: unknown key" in refused.value.stdout
        assert "nonsense: unknown key" in exporter.program.output()
        samples = exporter.scrape()
        assert refs_of(samples) == {third}
        assert samples["sitecore_cdp_exporter_config_last_reload_successful"] == {frozenset(): 0.0}

    with running_exporter(sandbox, tmp_path, batches=[third], flags=["--config.auto-reload"]) as exporter:
        config.write_text(config.read_text(encoding="utf-8").replace(third, fourth), encoding="utf-8")
        assert refs_of(exporter.scrape()) == {fourth}
