"""What the README shows is what happens. The scrape configs are checked in e2e/, the image in .ci/build-image."""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from sitecore_cdp_exporter.config import load_config
from sitecore_cdp_exporter.sandbox import Sandbox
from tests.e2e.program import running, wait_for
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, running_exporter

README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


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
        ("What a scrape says", ""),
        ("Quick start with your own batches", "yaml"),
        ("Quick start with your own batches", "sh"),  # Below.
        ("Quick start with your own batches", "sh"),  # Below.
        ("The config by example", "yaml"),
        ("The config by example", "sh"),
        ("The config by example", ""),
        ("Prometheus", "yaml"),  # In e2e/.
        ("Prometheus", "yaml"),  # In e2e/.
        ("Docker", "sh"),  # By .ci/build-image, without Docker.
        ("The sandbox", "sh"),
        ("The sandbox", "sh"),
    ]


@pytest.mark.parametrize("text", [block.text for block in blocks() if "api:" in block.text])
def test_configs_are_valid(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    assert load_config(config).batches


def test_the_output_is_that_of_a_real_scrape(tmp_path: Path) -> None:
    shown = block("What a scrape says", "").splitlines()
    ref = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(
            ref, status="error", total=121776, succeeded=121460, failed=316, time_to_process_millis=614867, log=True
        )
        batches = [{"ref": ref, "feed": "nightly-guests", "labels": {"team": "crm"}}]
        with running_exporter(sandbox, tmp_path, batches=batches) as exporter:
            exposed = requests.get(f"{exporter.url}/metrics", timeout=60).text.splitlines()
    assert set(shown) <= set(exposed)


def test_the_errors_are_those_of_a_real_check(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "api:\n  base_url: https://api-engage-eu.sitecorecloud.io\n  endpont: inspect\nbatches:\n  - 12af3453\n",
        encoding="utf-8",
    )
    shown = block("The config by example", "").splitlines()
    command = block("The config by example", "sh").replace(".venv/bin", str(BIN)).split()
    check = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert [line for line in shown if line not in check.stderr] == []
    assert len(check.stderr.splitlines()) == len(shown)


def make(*arguments: str) -> list[str]:
    return ["make", "--no-print-directory", f"VENV={sys.prefix}", *arguments]


def stop(process: subprocess.Popen[bytes]) -> None:
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
        script = block("Quick start with your own batches", "sh", 0).replace(
            "make run",
            # Another port, and the config of this test instead of one in the checkout.
            " ".join(make("--directory", str(ROOT), "run"))
            + f" CONFIG={tmp_path}/config.yaml ARGS=--web.listen-address=127.0.0.1:0",
        )
        with running(["bash", "-c", script], log=tmp_path / "run.log") as program:
            listening = wait_for(
                "the exporter to listen",
                lambda: re.search(r"msg=listening .*address=(\S+)", program.output()),
                programs=[program],
            )
            curl = block("Quick start with your own batches", "sh", 1).replace("localhost:10311", listening.group(1))
            metrics = subprocess.run(curl.split(), capture_output=True, text=True, check=True).stdout
            assert 'sitecore_cdp_batch_total_records{ref="12af3453-62da-4b31-b646-631b7b5f3009"} 7.0' in metrics


def test_the_sandbox_takes_an_upload(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    run, upload = (
        block("The sandbox", "sh", number)
        .replace(".venv/bin", str(BIN))
        .replace("127.0.0.1:10312", address)
        .replace("--speed=10", f"--speed=100 --listen-address={address}")
        .replace("examples/", f"{ROOT}/examples/")
        for number in (0, 1)
    )
    record = '{"ref": "a5f5a3b1-6b0e-4b8f-8d1f-0d3c7c6f1e11", "schema": "guest", "mode": "upsert", '
    (tmp_path / "guests.jsonl").write_text(record + '"value": {"email": "a@example.com"}}\n', encoding="utf-8")
    with running(run.split(), log=tmp_path / "sandbox.log") as program:
        wait_for("the sandbox to print its address", lambda: address in program.output(), programs=[program])
        uploaded = subprocess.run(
            ["bash", "-e", "-c", upload], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
        )
    assert uploaded.returncode == 0, uploaded.stderr
    assert "succeededCount: 1" in uploaded.stderr


def test_the_documents_that_it_names_are_there() -> None:
    named = re.findall(r"\]\(((?!https?:)[^)]+)\)", README)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
