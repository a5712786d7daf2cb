"""No failure leaks a secret, and nothing but GET is sent."""

import asyncio
import base64
import gc
import itertools
import re
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config import errors as config_problems
from sitecore_cdp_exporter.config.model import load_config
from sitecore_cdp_exporter.config.yaml import read_yaml
from sitecore_cdp_exporter.logs import LOG_LEVELS
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.web.security.file import WebConfigFile
from sitecore_cdp_exporter.web.security.model import parse_web_config
from tests.conditions import wait_until
from tests.exporter_program import running_demo
from tests.system import secrets_planted as planted
from tests.system.secrets_planted import LOG_PATH, UPLOAD_PATH, Search, core
from tests.system.secrets_walk import (
    BAD_BATCH_FILES,
    BAD_CONFIGS,
    BAD_WEB_CONFIGS,
    GOOD_REF,
    HASH,
    LEVELS,
    NOT_RELOADED,
    UNKNOWN_REF,
    WEB_USER,
    Evidence,
    Walk,
    basic,
    closed_port,
)
from tests.web.security.web_config_server import TLS, Folder, current
from tests.web.web_server_thread import PATIENCE
from tools.program import wait_for
from tools.sandbox import Sandbox, faults

SEARCH = Search({HASH[7:]: "hash of the web config"})
WAYS_TO_LOG = list(itertools.product(LOG_LEVELS, ("logfmt", "json")))
# The other levels log less of the same.
MOST = [("debug", "logfmt"), ("debug", "json")]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Walk(tmp_path_factory.mktemp("walk")).run()


# The search


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(core("API token"), id="plain"),
        pytest.param(core("API token")[3:11] + "…", id="truncated"),
        pytest.param(quote(planted.API_TOKEN), id="in a URL"),
        pytest.param(repr(planted.API_TOKEN.encode()), id="repr of bytes"),
        pytest.param(core("API token").upper(), id="capitals"),
        *(
            pytest.param(base64.b64encode(b"a" * before + planted.API_TOKEN.encode()).decode(), id=f"base64 {before}")
            for before in range(3)
        ),
    ],
)
def test_the_search_finds_a_secret_in_any_form(text: str) -> None:
    assert Search().leaks([("here", f"one line\nand: {text}\n"), ("there", "nothing")]) == {"here": {"API token"}}


# The real program

walking = pytest.mark.slow(reason="leads four exporters, one for each log level, through all that can go wrong")


@walking
def test_no_page_and_no_log_leaks_a_secret(evidence: Evidence) -> None:
    assert Search(evidence.keys).leaks(evidence.outputs) == {}


@walking
def test_the_walk_came_by_every_reason_and_every_mistake(evidence: Evidence) -> None:
    samples = [
        sample
        for page in evidence.metrics
        if not page.endswith("# EOF\n")
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    failures = [sample.labels for sample in samples if sample.name == "sitecore_cdp_batch_poll_failure"]
    assert {labels["reason"] for labels in failures} == {f"{reason}" for reason in Reason}
    outputs = [line for line in evidence.logs["debug", "logfmt"].splitlines() if "a batch cannot be read" in line]
    assert {labels["ref"] for labels in failures} == {ref for line in outputs for ref in re.findall(r"ref=(\S+)", line)}
    lists = {sample.labels["reason"] for sample in samples if sample.name == "sitecore_cdp_discovery_failure"}
    assert lists >= {"bad_response", "http_error"}
    files = {
        sample.labels["file"]
        for sample in samples
        if sample.name == "sitecore_cdp_exporter_batch_file_error" and sample.value == 1
    }
    assert files == {f"batches.d/{name}" for name in BAD_BATCH_FILES}
    for level, form in LEVELS:
        log = evidence.logs[level, form]
        assert log.count("cannot reload the config") > len(BAD_CONFIGS)
        assert log.count(NOT_RELOADED) > len(BAD_WEB_CONFIGS)
        faults_logged = [line for line in log.splitlines() if "a bug in the exporter: please report it" in line]
        assert {found for line in faults_logged for found in re.findall(r"\w+Error\b", line)} == {"RuntimeError"}
        assert ("level=debug" in log) is (level == "debug")


@walking
def test_nothing_but_get_is_sent(evidence: Evidence) -> None:
    sent = [*evidence.direct.requests(), *evidence.tunnelled.requests()]
    assert {request.method for request in sent} == {"GET"}
    assert not {name for request in sent for name in request.headers} & {"content-length", "transfer-encoding"}
    kinds = {re.sub("[0-9a-f-]{36}", "<ref>", request.target.partition("&")[0]) for request in sent}
    assert {kind.partition("=")[0] for kind in kinds} == {
        "/v2/batches/<ref>",
        "/v2/batches/inspect/<ref>",
        "/v2/batches/inspect?status",
    }


@walking
def test_credentials_go_to_the_api_and_to_nobody_else(evidence: Evidence) -> None:
    sent = [*evidence.direct.requests(), *evidence.tunnelled.requests()]
    assert {request.headers["authorization"] for request in sent} == {
        basic(planted.CLIENT_KEY, planted.API_TOKEN),
        basic(planted.CLIENT_KEY, planted.OTHER_TOKEN),
        basic(planted.ENVIRONMENT_KEY, planted.ENVIRONMENT_TOKEN),
    }
    assert not [request for request in sent if "proxy-authorization" in request.headers]
    # A proxy gets its own credentials, and passes on what it cannot read.
    assert len(evidence.connects) >= 3 * len(LEVELS)
    for head in evidence.connects:
        # By name for the proxy of the environment, which loopback does not take.
        assert re.match(rf"CONNECT (127\.0\.0\.1|api\.example):{evidence.tunnelled.port} HTTP/1\.", head)
        assert re.findall("(?im)^[a-z-]*authorization", head) == ["Proxy-Authorization"]
    # Redirects are not followed, nor presigned URLs but those of error logs, and those without credentials.
    requests_of = [head.split("\r\n") for head in evidence.strays]
    assert {request[0] for request in requests_of} == {f"GET {path} HTTP/1.1" for path in (LOG_PATH, UPLOAD_PATH, "/")}
    names = {header.partition(":")[0] for request in requests_of for header in request[1:] if header}
    assert names == {"Host", "Accept", "Accept-Encoding", "Connection", "User-Agent"}


@walking
def test_the_walk_came_by_error_logs_that_were_read_and_others(evidence: Evidence) -> None:
    pages = [page for page in evidence.metrics if not page.endswith("# EOF\n")]
    samples = [
        (sample.name, sample.labels.get("cause"), sample.labels.get("reason"))
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("sitecore_cdp_batch_error_log_")
    ]
    assert set(samples) >= {
        ("sitecore_cdp_batch_error_log_records", "validation", None),
        ("sitecore_cdp_batch_error_log_records", "not_found", None),
        ("sitecore_cdp_batch_error_log_records", "other", None),
        ("sitecore_cdp_batch_error_log_read_failure", None, "bad_response"),
        ("sitecore_cdp_batch_error_log_read_failure", None, "forbidden"),
        ("sitecore_cdp_batch_error_log_read_failure", None, "host_not_allowed"),
    }


def test_the_demo_leaks_no_secret(tmp_path: Path) -> None:
    environment = {
        "SITECORE_CDP_API_TOKEN": planted.ENVIRONMENT_TOKEN,
        "HTTP_PROXY": f"http://{planted.ENVIRONMENT_PROXY_CREDENTIALS}@127.0.0.1:{closed_port()}",
    }
    running = running_demo(tmp_path, flags=["--log.level=debug"], environment=environment)
    with running as (demo, api), requests.Session() as session:
        session.trust_env = False
        session.auth = (CLIENT_KEY, API_TOKEN)

        def presigned() -> list[str]:
            listed = session.get(f"{api}/v2/batches/inspect", timeout=PATIENCE).json()["items"]
            batches = [session.get(item["href"], timeout=PATIENCE).json() for item in listed]
            return [batch["location"]["href"] for batch in batches]

        urls = wait_for("an upload", presigned, programs=[demo.program])
        outputs = [session.get(f"{demo.url}{path}", timeout=PATIENCE).text for path in ("/metrics", "/", "/metrics")]
        outputs.append(demo.program.output())
    signatures = {href.partition("Signature=")[2]: "presigned URL" for href in urls}
    assert all(signatures)
    assert "sitecore_cdp_batch_status" in outputs[0]
    assert Search(signatures).leaks([("demo", text) for text in outputs]) == {}


# The command


def write_config(directory: Path) -> Path:
    """Write a config with secrets in all places where they belong."""
    api = {
        "base_url": "https://api.example",
        "basic_auth": {"username": planted.CLIENT_KEY, "password": planted.API_TOKEN},
        "proxy_url": f"http://{planted.PROXY_CREDENTIALS}@127.0.0.1:1",
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"api": api, "batches": [GOOD_REF]}), encoding="utf-8")
    return config


def run(
    capsys: pytest.CaptureFixture[str], flags: list[str], ways_to_log: Iterable[tuple[str, str]] = WAYS_TO_LOG
) -> tuple[int, list[tuple[str, str]]]:
    """Run the command in each way to log, and return its exit status and what it printed."""
    outputs, statuses = [], set()
    for level, form in ways_to_log:
        try:
            status = main([*flags, f"--log.level={level}", f"--log.format={form}"])
        except SystemExit as ended:
            status = int(ended.code or 0)
        statuses.add(status)
        outputs.append((f"{level} {form}", "".join(capsys.readouterr())))
    (status,) = statuses
    return status, outputs


@pytest.fixture(scope="module")
def folder_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder whose keys and certificates stay."""
    return Folder(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def folder(folder_with_keys: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder with a good config and a good web config, and more secrets in the environment."""
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", planted.ENVIRONMENT_KEY)
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", planted.ENVIRONMENT_TOKEN)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{planted.ENVIRONMENT_PROXY_CREDENTIALS}@127.0.0.1:1")
    write_config(folder_with_keys.path)
    folder_with_keys.write(f"{TLS}basic_auth_users: {{{WEB_USER}: {HASH}}}\n")
    return folder_with_keys


def flags_of(folder: Folder) -> list[str]:
    return [f"--config.file={folder.path / 'config.yaml'}", f"--web.config.file={folder.web_config}"]


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--help"], 0, "--config.file"),
        (["--version"], 0, "sitecore-cdp-batch-exporter"),
        (["--config.check"], 0, "is valid"),
        (["--web.listen-address=nowhere"], 2, "expected host:port"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_leaks_no_secret(
    folder: Folder, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, said: str
) -> None:
    ended, outputs = run(capsys, [*flags_of(folder), *flags])
    assert ended == status
    assert all(said in text for _, text in outputs)
    assert SEARCH.leaks(outputs) == {}


def test_a_port_in_use_leaks_no_secret(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, outputs = run(capsys, [*flags_of(folder), f"--web.listen-address=127.0.0.1:{taken.getsockname()[1]}"])
    assert status == 1
    assert all("cannot listen on" in text for _, text in outputs)
    assert SEARCH.leaks(outputs) == {}


@pytest.mark.parametrize("flags", [[], ["--config.check"]], ids=["start", "check"])
@pytest.mark.parametrize("mistake", BAD_CONFIGS)
def test_a_bad_config_leaks_no_secret(
    folder: Folder, capsys: pytest.CaptureFixture[str], mistake: str, flags: list[str]
) -> None:
    content = BAD_CONFIGS[mistake].encode(errors="surrogateescape")
    (folder.path / "config.yaml").write_bytes(content)
    status, outputs = run(capsys, [*flags_of(folder), *flags], MOST)
    assert status == 1
    assert all("config.yaml:" in text for _, text in outputs)
    assert SEARCH.leaks(outputs) == {}


@pytest.mark.parametrize("flags", [[], ["--config.check"]], ids=["start", "check"])
@pytest.mark.parametrize("mistake", BAD_WEB_CONFIGS)
def test_a_bad_web_config_leaks_no_secret(
    folder: Folder, capsys: pytest.CaptureFixture[str], mistake: str, flags: list[str]
) -> None:
    folder.write(BAD_WEB_CONFIGS[mistake])
    status, outputs = run(capsys, [*flags_of(folder), *flags], MOST)
    assert status == 1
    assert all("web.yml:" in text for _, text in outputs)
    assert SEARCH.leaks(outputs) == {}


def test_a_fault_while_reporting_a_mistake_leaks_no_secret(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback of an error that nobody has foreseen comes with those before it."""
    monkeypatch.setattr(config_problems, "EXPECTED", {})
    text = (folder.path / "config.yaml").read_text(encoding="utf-8")
    (folder.path / "config.yaml").write_text(f"{text}retention: []\n", encoding="utf-8")
    with pytest.raises(KeyError) as caught:
        main(flags_of(folder))
    outputs = "".join(traceback.format_exception(caught.value))
    assert "ValidationError" in outputs
    assert SEARCH.leaks([("traceback", outputs)]) == {}


# Objects


def shown(value: Any) -> Iterator[str]:  # noqa: ANN401  Whatever there is.
    """Yield all that shows an object."""
    yield repr(value)
    yield str(value)
    if isinstance(value, BaseModel):
        yield value.model_dump_json()
        yield repr(value.model_dump())
    if isinstance(value, BaseException):
        yield "".join(traceback.format_exception(value))


def objects() -> list[object]:
    """Return every object of the package's own classes."""
    return [
        value
        for value in gc.get_objects()
        if re.match(r"sitecore_cdp_exporter\.(?!sandbox)", f"{type(value).__module__}")
    ]


def shown_by_kind(values: Iterable[object]) -> Mapping[str, list[str]]:
    """Show objects, by the name of their class."""
    found: dict[str, list[str]] = {}
    for value in values:
        found.setdefault(type(value).__qualname__, []).extend(shown(value))
    return found


async def let_in(web_config: WebConfigFile) -> bool:
    passwords = current(web_config).passwords
    assert passwords is not None
    return await passwords.accept(WEB_USER, planted.WEB_PASSWORD)


def test_no_object_shows_a_secret(folder: Folder) -> None:
    # Those of other tests, which may be thousands. They are kept, so that no new one gets the id of one of them.
    others = {id(value): value for value in objects()}
    config_file = folder.path / "config.yaml"
    key = planted.pem_lines((folder.path / "server.key").read_text(encoding="ascii"))
    with_key = yaml.safe_dump(
        {
            "tls_server_config": {"cert_file": "server.crt", "key": (folder.path / "server.key").read_text("ascii")},
            "basic_auth_users": {WEB_USER: HASH},
        }
    )
    folder.write(with_key)
    kept: list[object] = [
        load_config(config_file),
        read_yaml(config_file.read_bytes()),
        *(
            read_yaml(text.encode(errors="surrogateescape"))
            for text in (*BAD_CONFIGS.values(), *BAD_WEB_CONFIGS.values())
        ),
        read_yaml(f"[{core('misplaced')}, {{{core('misplaced')}: 1, {core('misplaced')}: 2}}]"),
        parse_web_config(folder.web_config, with_key.encode()),
    ]
    web_config = WebConfigFile(folder.web_config)
    assert asyncio.run(let_in(web_config))
    with Sandbox(client_key=planted.CLIENT_KEY, api_token=planted.API_TOKEN) as sandbox:
        sandbox.put_batch(GOOD_REF, status="error", log=True)
        document = yaml.safe_load(config_file.read_bytes())
        document["api"] |= {"base_url": sandbox.base_url, "tls_config": {"ca_file": "server_ca.crt"}}
        proxied = {"base_url": "https://api.example", "proxy_url": document["api"].pop("proxy_url")}
        for api in (document["api"] | proxied, document["api"]):
            config_file.write_text(yaml.safe_dump(document | {"api": api}))
            service = Service(config_file, CollectorRegistry())
            kept += [service, service.poller.poll(time.monotonic() + PATIENCE)]
        # Objects that only a request under way has.
        sandbox.set_fault(faults.Hang())
        sandbox.clear_requests()
        with ThreadPoolExecutor(1) as threads:
            probe = threads.submit(service.poller.probe, UNKNOWN_REF, time.monotonic() + PATIENCE)
            wait_until(lambda: bool(sandbox.requests))
            found = shown_by_kind(value for value in objects() if id(value) not in others)
            sandbox.clear_faults()
            kept.append(probe.result())
        for each in kept:
            if isinstance(each, Service):
                each.poller.stop()
                each.close()
    web_config.close()
    assert found.keys() >= {
        *("ApiConfig", "BasicAuth", "BatchApi", "Credentials", "Connection", "Proxy"),
        *("Backoff", "Poller", "Memory"),
        *("PollError", "WebConfig", "TlsServerConfig", "Passwords", "WebSecurity", "WebConfigFile"),
        *("YamlDocument", "YamlMapping", "YamlList", "YamlProblem", "Place", "ParsedWebConfig"),
    }
    outputs = [(kind, text) for kind, texts in found.items() for text in texts]
    assert SEARCH.leaks(outputs) == {}
    assert Search({key: "key of the server"}).leaks(outputs) == {}
