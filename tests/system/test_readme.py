"""What the README shows is what happens. `make test` runs this; test_packaging builds and installs the wheel."""

import os
import re
import shlex
import signal
import sys
from pathlib import Path

import requests
import yaml

from sitecore_cdp_exporter.api.batch import BatchStatus
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, running_exporter
from tests.markdown import block, blocks, rows
from tests.shell import run_bash
from tools.program import Process, running, wait_for, wait_for_address
from tools.sandbox import Sandbox

README = ROOT / "README.md"
YOURS = "Your own batches"
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_block_is_run_by_a_test() -> None:
    assert [(block.heading, block.language) for block in blocks(README)] == [
        ("Sitecore CDP batch exporter", "sh"),  # make demo below; make test is what runs this.
        (YOURS, "yaml"),
        (YOURS, "sh"),
        ("Install", "sh"),  # In test_packaging.
        ("Prometheus", "yaml"),
        ("Prometheus", ""),
    ]


def test_the_output_is_that_of_a_real_scrape(tmp_path: Path) -> None:
    shown = block(README, "Prometheus", "").splitlines()
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status=BatchStatus.ERROR, total=121776, succeeded=121460, failed=316, log=True)
        batches = [{"ref": REF, "feed": "nightly-guests", "labels": {"team": "crm"}}]
        with running_exporter(sandbox, tmp_path, batches=batches) as exporter:
            exposed = requests.get(f"{exporter.url}/metrics", timeout=60).text.splitlines()
    assert set(shown) <= set(exposed)


def test_the_scrape_config_is_the_one_that_is_shipped_and_tested() -> None:
    [shown] = yaml.safe_load(block(README, "Prometheus", "yaml"))["scrape_configs"]
    shipped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = [job for job in shipped["scrape_configs"] if job["job_name"] == shown["job_name"]]
    assert shown == job | {"scrape_interval": shipped["global"]["scrape_interval"]}


def test_the_cost_is_that_of_the_page_about_it() -> None:
    listing = rows(ROOT / "docs" / "listing.md")
    discovered, listed = ([*row[-2:]] for row in listing if row[0].startswith("requests a day"))
    assert [row[1:] for row in rows(README) if row[0].startswith(("discovery:", "batches that you list:"))] == [
        discovered,
        listed,
    ]


def make(*arguments: str) -> list[str]:
    return ["make", "--no-print-directory", "--directory", str(ROOT), f"VENV={sys.prefix}", "INSTALL=:", *arguments]


def stop(process: Process) -> None:
    """Interrupt the exporter under make, as Ctrl-C does."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    for child in children:
        os.kill(int(child), signal.SIGINT)
    process.wait(60)


def test_make_demo_shows_batches_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    assert "make demo" in block(README, "Sitecore CDP batch exporter", "sh")
    with running(make("demo", "ARGS=--web.listen-address=127.0.0.1:0"), log=tmp_path / "demo.log") as program:
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


def test_your_own_batches_are_polled_once_and_served(tmp_path: Path) -> None:
    with Sandbox(client_key="your client key", api_token="your API token") as sandbox:
        sandbox.put_batch(REF, status="success", total=7)
        config = re.sub(r"https://\S+", sandbox.base_url, block(README, YOURS, "yaml"))
        (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
        # The config of this test instead of one in the checkout.
        make_run = shlex.join(make("run", f"CONFIG={tmp_path}/config.yaml"))
        commands = block(README, YOURS, "sh").replace("make run", make_run)
        *polled_once, serve = commands.splitlines()
        assert re.search(rf"(?m)^-  +{REF}  success  +7 ", run_bash("\n".join(polled_once), tmp_path).stdout)
        exported = [line for line in polled_once if line.startswith("export ")]
        script = "\n".join([*exported, f"exec {serve} ARGS=--web.listen-address=127.0.0.1:0"])
        with running(["bash", "-c", script], log=tmp_path / "run.log") as program:
            metrics = requests.get(f"http://{wait_for_address(program)}/metrics", timeout=60).text
            assert f'sitecore_cdp_batch_total_records{{ref="{REF}"}} 7.0' in metrics
