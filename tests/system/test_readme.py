"""What the README shows is what happens. The scrape configs are checked in e2e/, the image in .ci/build-image."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from sitecore_cdp_exporter.config.model import load_config
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, LabelSet, running_exporter
from tools.program import Process, running, wait_for, wait_for_address
from tools.sandbox import Sandbox

README = (ROOT / "README.md").read_text(encoding="utf-8")
# As words of a shell: the path of a clone may have blanks.
BIN = shlex.quote(str(Path(sys.executable).parent))
EXAMPLES = shlex.quote(str(ROOT / "examples"))


@dataclass(frozen=True)
class Block:
    heading: str
    language: str
    text: str


def blocks() -> list[Block]:
    found, heading = [], ""
    for match in re.finditer(
        r"^#+ (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", README, re.MULTILINE | re.DOTALL
    ):
        heading = match["heading"] or heading
        if match["text"]:
            found.append(Block(heading, match["language"], match["text"]))
    return found


def block(heading: str, language: str, number: int = 0) -> str:
    return [block.text for block in blocks() if (block.heading, block.language) == (heading, language)][number]


def test_every_block_is_run_by_a_test() -> None:
    assert [(block.heading, block.language) for block in blocks()] == [
        ("Sitecore CDP batch exporter", "sh"),  # make demo below; make test is what runs this.
        ("What a scrape returns", ""),
        ("Quick start with your own batches", "yaml"),
        ("Quick start with your own batches", "sh"),  # Below.
        ("Quick start with your own batches", "sh"),  # Below.
        ("The config by example", "yaml"),
        ("The config by example", "sh"),
        ("The config by example", ""),
        ("One batch in a terminal", "sh"),
        ("In batch files", "yaml"),
        ("In batch files", "sh"),
        ("In batch files", "json"),
        ("In batch files", "sh"),
        ("By discovery", "yaml"),
        ("Reload", "sh"),
        ("Prometheus", "yaml"),  # In e2e/.
        ("Prometheus", "yaml"),  # In e2e/.
        ("Docker", "sh"),  # By .ci/build-image, without Docker.
        ("The sandbox", "sh"),
        ("The sandbox", "sh"),
        ("The sandbox", "sh"),
    ]


@pytest.mark.parametrize(
    "text", [block.text for block in blocks() if block.language == "yaml" and "api:" in block.text]
)
def test_configs_are_valid(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    loaded = load_config(config)
    assert loaded.batches or loaded.batch_files or loaded.discovery.enabled


def test_the_output_is_that_of_a_real_scrape(tmp_path: Path) -> None:
    shown = block("What a scrape returns", "").splitlines()
    ref = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(
            ref, status="error", total=121776, succeeded=121460, failed=316, time_to_process_millis=614867, log=True
        )
        batches = [{"ref": ref, "feed": "nightly-guests", "labels": {"team": "crm"}}]
        with running_exporter(sandbox, tmp_path, batches=batches) as exporter:
            exposed = requests.get(f"{exporter.url}/metrics", timeout=60).text.splitlines()
    assert set(shown) <= set(exposed)


def test_the_commands_need_no_more_than_make_run_has_installed() -> None:
    # Only `make test` installs the project itself, and with it the command.
    assert set(re.findall(r"\.venv/bin/([\w.-]+)", README)) == {"python"}


def test_the_errors_are_those_of_a_real_check(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "api:\n  base_url: https://api-engage-eu.sitecorecloud.io\n  endpont: inspect\nbatches:\n  - 12af3453\n",
        encoding="utf-8",
    )
    shown = block("The config by example", "").splitlines()
    command = block("The config by example", "sh").replace(".venv/bin", BIN)
    command = command.replace("exporter.py", shlex.quote(str(ROOT / "exporter.py")))
    check = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert [line for line in shown if line not in check.stderr] == []
    assert len(check.stderr.splitlines()) == len(shown)


def make(*arguments: str) -> list[str]:
    return ["make", "--no-print-directory", f"VENV={sys.prefix}", "INSTALL=:", *arguments]


def stop(process: Process) -> None:
    """Interrupt the exporter under make, as Ctrl-C does."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    for child in children:
        os.kill(int(child), signal.SIGINT)
    process.wait(60)


def test_make_demo_shows_batches_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    assert "make demo" in block("Sitecore CDP batch exporter", "sh")
    command = make("--directory", str(ROOT), "demo", "ARGS=--web.listen-address=127.0.0.1:0")
    with running(command, log=tmp_path / "demo.log") as program:
        printed = wait_for(
            "the demo to print where the metrics are",
            lambda: re.search(r"http://127\.0\.0\.1:\d+/metrics", program.output()),
            programs=[program],
        )
        wait_for(
            "the first batch",
            lambda: "sitecore_cdp_batch_status{" in requests.get(printed.group(), timeout=60).text,
            programs=[program],
        )
        stop(program.process)
        assert "msg=stopping" in program.output()
        assert "Traceback" not in program.output()


def test_the_quick_start_runs(tmp_path: Path) -> None:
    with Sandbox(client_key="your client key", api_token="your API token") as sandbox:
        sandbox.put_batch("12af3453-62da-4b31-b646-631b7b5f3009", status="success", total=7)
        config = block("Quick start with your own batches", "yaml")
        config = re.sub(r"https://\S+", sandbox.base_url, config)
        (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
        # The config of this test instead of one in the checkout.
        make_run = shlex.join([*make("--directory", str(ROOT), "run"), f"CONFIG={tmp_path}/config.yaml"])
        poll_once = block("Quick start with your own batches", "sh", 0).replace("make run", make_run)
        row = r"(?m)^-  +12af3453-62da-4b31-b646-631b7b5f3009  success  +7 "
        assert re.search(row, shell(poll_once, tmp_path).stdout)
        credentials = "".join(line for line in poll_once.splitlines(keepends=True) if line.startswith("export "))
        start = block("Quick start with your own batches", "sh", 1).replace(
            "make run", f"{make_run} ARGS=--web.listen-address=127.0.0.1:0"
        )
        with running(["bash", "-c", credentials + start], log=tmp_path / "run.log") as program:
            metrics = requests.get(f"http://{wait_for_address(program)}/metrics", timeout=60).text
            assert 'sitecore_cdp_batch_total_records{ref="12af3453-62da-4b31-b646-631b7b5f3009"} 7.0' in metrics
        in_a_terminal = block("One batch in a terminal", "sh").replace(".venv/bin", BIN)
        in_a_terminal = in_a_terminal.replace("exporter.py", shlex.quote(str(ROOT / "exporter.py")))
        assert re.search(row, shell(credentials + in_a_terminal, tmp_path).stdout)


def test_the_sandbox_takes_an_upload_and_fails_on_purpose_in_a_shell_with_real_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those that the quick start exported, in the same shell.
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", "your client key")
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", "your API token")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    run, upload, drill = (
        block("The sandbox", "sh", number)
        .replace(".venv/bin", BIN)
        .replace("127.0.0.1:10312", address)
        .replace("--speed=10", f"--speed=100 --listen-address={address}")
        .replace(" examples/", f" {EXAMPLES}/")
        .replace(" exporter.py", f" {shlex.quote(str(ROOT / 'exporter.py'))}")
        for number in range(3)
    )
    with running(shlex.split(run), log=tmp_path / "sandbox.log") as program:
        wait_for("the sandbox to print its address", lambda: address in program.output(), programs=[program])
        uploaded = subprocess.run(
            ["bash", "-e", "-c", upload], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
        )
        assert uploaded.returncode == 0, uploaded.stderr
        assert re.search(r"(?m)^-  +\S+  success  +2  +0 ", uploaded.stdout)

        down, slow, refusing, well = drill.splitlines()
        for command, status in ((down, 503), (refusing, 401), (well, 200)):
            shell(command, tmp_path)
            answer = requests.get(
                f"http://{address}/v2/batches/inspect", auth=("sandbox-client", "sandbox-token"), timeout=60
            )
            assert answer.status_code == status
        assert '"seconds": 8' in slow
        shell(slow.replace('"seconds": 8', '"seconds": 0.01'), tmp_path)


def test_the_record_that_is_shown_is_the_first_of_the_sample() -> None:
    sample = (ROOT / "examples" / "guests.jsonl").read_text(encoding="utf-8")
    assert sample.startswith(block("In batch files", "json"))


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Run a sandbox whose batches finish at once, with what uploaders read from the environment."""
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", CLIENT_KEY)
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", API_TOKEN)
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox:
        yield sandbox


def shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-e", "-c", script], cwd=directory, capture_output=True, text=True, check=True)


def refs_of(samples: dict[str, dict[LabelSet, float]]) -> set[str]:
    return {dict(labels)["ref"] for labels in samples.get("sitecore_cdp_batch_poll_success", ())}


def test_a_pipeline_lists_its_batch_and_old_files_go(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "batches.d"
    sections = yaml.safe_load(block("In batch files", "yaml"))
    del sections["api"]
    pipeline = (
        block("In batch files", "sh", 0)
        .replace(" examples/", f" {EXAMPLES}/")
        .replace("https://api-engage-eu.sitecorecloud.io", sandbox.base_url)
    )
    with running_exporter(sandbox, tmp_path, **sections) as exporter:
        assert refs_of(exporter.scrape()) == set()
        ref = shell(pipeline, tmp_path).stdout.strip()
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
            shell(block("In batch files", "sh", 1), tmp_path)
            assert file.exists() == kept
            assert refs_of(exporter.scrape()) == ({ref} if kept else set())


def test_discovery_knows_the_feed_by_its_prefix(sandbox: Sandbox, tmp_path: Path) -> None:
    ref = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    sandbox.put_batch(ref, status="success", total=7)
    sections = yaml.safe_load(block("By discovery", "yaml"))
    del sections["api"]
    with running_exporter(sandbox, tmp_path, **sections) as exporter:
        samples = exporter.scrape()
    assert set(samples["sitecore_cdp_batch_accepted"]) == {
        frozenset({"ref": ref, "feed": "nightly-guests", "team": "crm"}.items())
    }
    expected = {frozenset({"feed": "nightly-guests", "team": "crm"}.items()): 86400.0}
    assert samples["sitecore_cdp_feed_expected_interval_seconds"] == expected


def test_each_way_to_reload_takes_up_what_changed(sandbox: Sandbox, tmp_path: Path) -> None:
    by_signal, by_post = block("Reload", "sh").splitlines()
    first, second, third, fourth = (f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(4))
    config = tmp_path / "config.yaml"
    with running_exporter(sandbox, tmp_path, batches=[first], flags=["--web.enable-lifecycle"]) as exporter:
        by_signal = by_signal.replace("$PID", str(exporter.program.process.pid))
        by_post = by_post.replace("http://localhost:10311", exporter.url)
        config.write_text(config.read_text(encoding="utf-8").replace(first, second), encoding="utf-8")
        assert refs_of(exporter.scrape()) == {first}
        shell(by_signal, tmp_path)
        wait_for("the reload", lambda: refs_of(exporter.scrape()) == {second}, programs=[exporter.program])
        config.write_text(config.read_text(encoding="utf-8").replace(second, third), encoding="utf-8")
        shell(by_post, tmp_path)
        assert refs_of(exporter.scrape()) == {third}

        good = config.read_text(encoding="utf-8")
        config.write_text(f"{good}nonsense: true\n", encoding="utf-8")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            shell(by_post, tmp_path)
        assert "nonsense: unknown key" in refused.value.stdout
        assert "nonsense: unknown key" in exporter.program.output()
        samples = exporter.scrape()
        assert refs_of(samples) == {third}
        assert samples["sitecore_cdp_exporter_config_last_reload_successful"] == {frozenset(): 0.0}

    with running_exporter(sandbox, tmp_path, batches=[third], flags=["--config.auto-reload"]) as exporter:
        config.write_text(config.read_text(encoding="utf-8").replace(third, fourth), encoding="utf-8")
        assert refs_of(exporter.scrape()) == {fourth}


def anchors(document: Path) -> set[str]:
    """Return the names of the headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", document.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_the_documents_and_headings_that_are_named_are_there(document: Path) -> None:
    named = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8"))
    for path, anchor in named:
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor
