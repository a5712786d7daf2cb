"""What docs/web-configuration.md says and shows is so."""

import re
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest

from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.web import connections
from sitecore_cdp_exporter.web import server as web
from sitecore_cdp_exporter.web.security.model import (
    MAX_COST,
    MIN_COST,
    Headers,
    HttpServerConfig,
    RateLimit,
    TlsServerConfig,
    WebConfig,
    parse_web_config,
)
from tests.web.security.web_config_server import EXAMPLES, TLS
from tests.web.web_server_thread import PATIENCE
from tools.exporter_program import ROOT

TEXT = (ROOT / "docs" / "web-configuration.md").read_text(encoding="utf-8")


def test_the_yaml_is_that_of_the_examples() -> None:
    shown = re.findall(r"(?s)```yaml\n(.*?)```", TEXT)
    files = [EXAMPLES / "web-config.yml", EXAMPLES / "web-config-prometheus.yml"]
    assert shown == [file.read_text(encoding="utf-8") for file in files]


def test_every_example_is_named() -> None:
    for file in EXAMPLES.glob("web-config*.yml"):
        assert f"(examples/{file.name})" in TEXT


def test_every_key_is_named() -> None:
    keys = [
        *TlsServerConfig.model_fields,
        *HttpServerConfig.model_fields,
        *RateLimit.model_fields,
        *(str(field.alias) for field in Headers.model_fields.values()),
        *WebConfig.model_fields,
    ]
    assert [key for key in keys if not re.search(rf"`([a-z_]+\.)?{key}\b", TEXT)] == []


def test_the_command_makes_a_hash_of_what_is_typed() -> None:
    [command] = re.findall(r"(?m)^python3 -c '(.*)'$", TEXT)
    # Without a terminal it asks on standard error, and warns that the password can be seen.
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command],
        input="pass word\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        start_new_session=True,
    )
    hashed = made.stdout.split()[-1].encode()
    assert bcrypt.checkpw(b"pass word", hashed)
    parse_web_config(Path("web.yml"), b"basic_auth_users: {a: " + hashed + b"}")


def test_the_sample_of_mistakes_is_true() -> None:
    text = (
        f"{TLS}  min_version: TLS10\nhttp_server_config:\n  headers:\n    X-Frame-Options: DENY\n"
        "basic_auth_users:\n  prometheus: change-me\n"
    )
    with pytest.raises(ConfigError) as raised:
        parse_web_config(Path("web.yml"), text.encode())
    assert f"```text\n{raised.value}\n```" in TEXT


def test_the_limits_are_reported() -> None:
    for limit in (
        f"{web.MAX_TLS_CONNECTIONS} TLS connections",
        f"{web.MAX_CONNECTIONS:,} without TLS",
        f"more than {connections.MAX_REQUEST // 1024} KiB",
        f"more than {connections.MAX_UNREAD_BYTES // 1024**2} MiB",
        f"more than {connections.MAX_SMALL_ANSWER // 1024} KiB counts",
        f"A handshake may take {web.HANDSHAKE_SECONDS:.0f} seconds",
        f"with a cost from {MIN_COST} to {MAX_COST}",
    ):
        assert limit in TEXT
