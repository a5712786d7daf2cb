"""A web config that changes while the exporter runs: it never lets in whoever it kept out."""

import asyncio
import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import bcrypt
import pytest
import requests

from sitecore_cdp_exporter.web.security.file import WebConfigFile, WebSecurity
from tests.web.security.web_config_server import (
    EXAMPLES,
    HASH,
    MUTUAL_TLS,
    TLS,
    USERS,
    Folder,
    SecureServerThread,
    current,
    secure_server,
)

LOADED = "sitecore_cdp_exporter_web_config_last_reload_successful"
PASSWORDS = {"prometheus": "change-me", "on-call": "change-me-too"}
VERIFY = MUTUAL_TLS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def web_config(folder: Folder, request: pytest.FixtureRequest) -> Iterator[WebConfigFile]:
    """A web config that begins with the text that the test names."""
    web_config = WebConfigFile(folder.write(request.param))
    yield web_config
    web_config.close()


def example(name: str) -> str:
    """Return an example without its comments, and with passwords that take a hundredth of the time to check."""
    text = re.sub(r"(?m)^ *#.*\n", "", (EXAMPLES / name).read_text(encoding="utf-8"))
    for user, password in PASSWORDS.items():
        cheap = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
        text = re.sub(rf"(?m)^  {user}: .*", f"  {user}: {cheap}", text)
    return text


def let_in(security: WebSecurity) -> set[str]:
    """Return those of the examples' users whose password is right."""
    passwords = security.passwords
    assert passwords is not None

    async def accepted() -> set[str]:
        return {user for user, password in PASSWORDS.items() if await passwords.accept(user, password)}

    return asyncio.run(accepted())


def answers(server: SecureServerThread, auth: tuple[str, str] | None, certificate: str | None) -> bool:
    with suppress(requests.ConnectionError, ConnectionError):
        return server.get("/metrics", auth=auth, certificate=certificate).ok
    return False


# A file that is cut, because it is being written, or because the disk is full


@pytest.mark.parametrize(
    ("web_config", "text"),
    [(text, text) for text in map(example, ("web-config.yml", "web-config-password.yml"))],
    ids=["web-config.yml", "web-config-password.yml"],
    indirect=["web_config"],
)
def test_no_part_of_an_example_asks_for_less(web_config: WebConfigFile, folder: Folder, text: str) -> None:
    # No password is asked whether it is right more often than it has to be.
    checked = set()
    whole = current(web_config)
    for length in range(len(text) + 1):
        folder.write(text[:length])
        part = current(web_config)
        assert part.passwords is not None, text[:length]
        assert part.tls is not None
        assert whole.tls is not None
        assert part.tls.verify_mode == whole.tls.verify_mode, text[:length]
        assert part.tls.minimum_version == whole.tls.minimum_version, text[:length]
        listed = frozenset(user for user in PASSWORDS if f"{user}: $2y$" in text[:length])
        if part is not whole and listed not in checked:
            checked.add(listed)
            assert let_in(part) == listed
        if part is not whole:
            folder.write(text)
            whole = current(web_config)
    # The file counts as soon as its last user is whole, and so does the one with one user of two.
    assert checked >= {frozenset(user for user in PASSWORDS if f"{user}: " in text)}


@pytest.mark.parametrize("last", ["", "key_file: server.key", "client_ca.crt", "basic_auth_users:", "prometheus: $2y"])
def test_a_truncated_web_config_keeps_the_passwords(folder: Folder, last: str) -> None:
    text = example("web-config.yml")
    folder.write(text)
    with secure_server(folder) as server:
        folder.write(text[: text.rindex(last) + len(last)] if last else "")
        right = ("prometheus", "change-me")
        assert answers(server, right, "client")
        assert not answers(server, None, "client")
        assert not answers(server, right, None)
        assert not answers(server, None, None)


# What is weaker needs a restart, and what is stronger does not


@pytest.mark.parametrize(
    ("web_config", "weaker", "message"),
    [
        (f"{TLS}{USERS}", TLS, "basic_auth_users cannot be removed without a restart"),
        (f"{TLS}{USERS}", f"{TLS}basic_auth_users: {{}}", "basic_auth_users cannot be removed without a restart"),
        (USERS, "# nothing\n", "basic_auth_users cannot be removed without a restart"),
        (MUTUAL_TLS, VERIFY, "tls_server_config.client_auth_type cannot ask for less without a restart"),
        (MUTUAL_TLS, TLS, "tls_server_config.client_auth_type cannot ask for less without a restart"),
        (VERIFY, TLS, "tls_server_config.client_auth_type cannot ask for less without a restart"),
        (f"{TLS}  min_version: TLS13\n", TLS, "tls_server_config.min_version cannot be lowered without a restart"),
        (TLS, USERS, "TLS cannot be switched on or off without a restart"),
    ],
    indirect=["web_config"],
)
def test_weaker_settings_are_refused_and_logged_once(
    web_config: WebConfigFile, folder: Folder, weaker: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = current(web_config)
    folder.write(weaker)
    for _ in range(3):
        assert current(web_config) is before
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == [f"cannot reload the web config: {folder.web_config}: {message}"]


@pytest.mark.parametrize("web_config", [f"{MUTUAL_TLS}  min_version: TLS13\n{USERS}"], indirect=True)
def test_everything_that_would_weaken_security_is_reported(
    web_config: WebConfigFile, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write(TLS)
    current(web_config)
    assert len([record for record in caplog.records if "without a restart" in record.getMessage()]) == 3
    caplog.clear()
    folder.write("")
    current(web_config)
    assert len([record for record in caplog.records if "without a restart" in record.getMessage()]) == 2


@pytest.mark.parametrize("web_config", [TLS], indirect=True)
def test_what_is_stronger_counts_at_once(web_config: WebConfigFile, folder: Folder) -> None:
    for text, expected in ((VERIFY, ssl.CERT_OPTIONAL), (MUTUAL_TLS, ssl.CERT_REQUIRED)):
        folder.write(text)
        context = current(web_config).tls
        assert context is not None
        assert context.verify_mode is expected
    assert current(web_config).passwords is None
    folder.write(f"{MUTUAL_TLS}  min_version: TLS13\n{USERS}")
    security = current(web_config)
    assert security.tls is not None
    assert security.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert let_in(security) == {"prometheus"}


@pytest.mark.parametrize("web_config", [USERS], indirect=True)
def test_users_come_and_go_as_long_as_there_is_one(web_config: WebConfigFile, folder: Folder) -> None:
    folder.write(f"{USERS}  on-call: {HASH}\n")
    assert let_in(current(web_config)) == {"prometheus"}
    folder.write(f"basic_auth_users: {{on-call: {HASH}}}")
    assert let_in(current(web_config)) == set()


@pytest.mark.parametrize("web_config", [f"{USERS}rate_limit: {{interval: 1h, burst: 1}}\n"], indirect=True)
def test_a_rate_limit_may_be_removed_by_a_reload(web_config: WebConfigFile, folder: Folder) -> None:
    folder.write(USERS)
    assert current(web_config).rate_limit is None


# What is remembered


@pytest.mark.parametrize("change", ["certificate", "another user", "headers"])
def test_a_correct_password_stays_remembered_while_its_hash_is_unchanged(folder: Folder, change: str) -> None:
    folder.write(f"{MUTUAL_TLS}{USERS}")
    web_config = WebConfigFile(folder.web_config)
    before = current(web_config)
    assert let_in(before) == {"prometheus"}
    match change:
        case "certificate":
            folder.renew_server()
        case "another user":
            folder.write(f"{MUTUAL_TLS}{USERS}  other: {HASH}\n")
        case _:
            folder.write(f"{MUTUAL_TLS}{USERS}http_server_config: {{headers: {{X-Frame-Options: deny}}}}\n")
    after = current(web_config)
    web_config.close()
    assert after is not before
    # No thread is left to compare anything.
    assert after.passwords is not None
    assert asyncio.run(after.passwords.accept("prometheus", "change-me"))


def test_what_was_right_for_another_hash_is_compared_again(folder: Folder) -> None:
    folder.write(USERS)
    web_config = WebConfigFile(folder.web_config)
    assert let_in(current(web_config)) == {"prometheus"}
    other = "$2b$04$5BX2rrXvZTM9hmoB9AHVw.tSJrlAw/k2LR3ABKnoyTJsHyI7L6pTD"
    for users, expected in (
        (f"prometheus: {other}", set()),
        (f"on-call: {HASH}", set()),
        (f"prometheus: {HASH}", {"prometheus"}),
    ):
        folder.write(f"basic_auth_users: {{{users}}}")
        assert let_in(current(web_config)) == expected
    web_config.close()


# Warnings


def test_each_load_warns_about_http2(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    http2 = f"{TLS}http_server_config: {{http2: true}}\n"
    folder.write(http2)
    web_config = WebConfigFile(folder.web_config)
    for text, expected in ((http2, 1), (f"{http2}# changed", 1), ("# cut", 0), (TLS, 0), (http2, 1)):
        folder.write(text)
        current(web_config)
        assert [record.levelname for record in caplog.records].count("WARNING") == expected
        caplog.clear()
    web_config.close()
