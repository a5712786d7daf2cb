"""Where user name and password come from."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from sitecore_cdp_exporter.api.credentials import PASSWORD_VARIABLE, USERNAME_VARIABLE, credential_problems
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import BasicAuth
from tests.api.api_client import API_TOKEN, CLIENT_KEY, REF, Client, assert_no_secret
from tools.sandbox import Sandbox

NewClient = Callable[..., Client]

URL = "http://127.0.0.1:1"


def basic_auth(client: Client) -> tuple[str, str]:
    credentials = client.api.read_credentials()
    assert_no_secret(f"{credentials} {credentials!r}")
    return credentials.username, credentials.password


def credentials_error(client: Client) -> str:
    with pytest.raises(PollError) as caught:
        client.api.read_credentials()
    assert caught.value.reason is Reason.CREDENTIALS
    assert_no_secret(f"{caught.getrepr(showlocals=False, style='native')} {caught.value!r}")
    return f"{caught.value}"


def test_credentials_come_from_the_config_or_else_the_environment(new_client: NewClient) -> None:
    environ = {USERNAME_VARIABLE: "other", PASSWORD_VARIABLE: API_TOKEN}
    inline = BasicAuth(username=SecretStr(CLIENT_KEY))
    assert basic_auth(new_client(URL, environ=environ, basic_auth=inline)) == (CLIENT_KEY, API_TOKEN)


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (API_TOKEN, API_TOKEN),
        (f"{API_TOKEN}\n", API_TOKEN),
        (f"{API_TOKEN}\r\n", API_TOKEN),
        # Notepad, and Out-File of Windows PowerShell.
        (f"{BOM}{API_TOKEN}\r\n", API_TOKEN),
        (f"{BOM}{BOM}{API_TOKEN}{BOM}", API_TOKEN),
        (f"\n\r\n\t {API_TOKEN}\t \u00a0\u2003\u3000\u2028\x85\n\n", API_TOKEN),
        ("to ken\n", "to ken"),
        ("a:b\n", "a:b"),
        ("a\u200bb", "a\u200bb"),
    ],
)
def test_a_secret_loses_the_byte_order_mark_and_the_blanks_at_its_ends(
    new_client: NewClient, tmp_path: Path, content: str, secret: str
) -> None:
    (tmp_path / "password").write_bytes(content.encode())
    client = new_client(URL, basic_auth=BasicAuth(username=SecretStr("client"), password_file=tmp_path / "password"))
    assert basic_auth(client) == ("client", secret)
    environ = {USERNAME_VARIABLE: "client", PASSWORD_VARIABLE: content}
    assert basic_auth(new_client(URL, environ=environ)) == ("client", secret)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("to\nken", "holds a line break or another control character"),
        ("\0token", "holds a line break or another control character"),
        ("token\x7f", "holds a line break or another control character"),
        ("token\u200b\n", "ends with an invisible character: U+200B ZERO WIDTH SPACE"),
        ("\u2060token", "begins with an invisible character: U+2060 WORD JOINER"),
        ("\u00adtoken", "begins with an invisible character: U+00AD SOFT HYPHEN"),
        ("token\u200e", "ends with an invisible character: U+200E LEFT-TO-RIGHT MARK"),
        ("token\ue000", "ends with an invisible character: U+E000"),
        (BOM, "is empty"),
        (" \r\n", "is empty"),
    ],
)
def test_a_secret_with_an_invisible_character_names_its_place_and_the_character(
    new_client: NewClient, tmp_path: Path, content: str, problem: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    client = new_client(URL, basic_auth=BasicAuth(username=SecretStr("client"), password_file=file))
    assert credentials_error(client) == f"api.basic_auth.password_file ({file}) {problem}"
    environ = {USERNAME_VARIABLE: "client", PASSWORD_VARIABLE: content}
    error = credentials_error(new_client(URL, environ=environ))
    assert error == f"the environment variable {PASSWORD_VARIABLE} {problem}"


def test_an_invisible_character_at_the_end_of_a_secret_in_the_config_is_named(new_client: NewClient) -> None:
    auth = BasicAuth(username=SecretStr("client"), password=SecretStr(f"{API_TOKEN}\u200b"))
    error = credentials_error(new_client(URL, basic_auth=auth))
    assert error == "api.basic_auth.password ends with an invisible character: U+200B ZERO WIDTH SPACE"


def test_everything_missing_is_named_at_once(new_client: NewClient, tmp_path: Path) -> None:
    no_username = (
        f"there is no username: set api.basic_auth.username_file or the environment variable {USERNAME_VARIABLE}"
    )
    no_password = (
        f"there is no password: set api.basic_auth.password_file or the environment variable {PASSWORD_VARIABLE}"
    )
    assert credential_problems(BasicAuth(), {}) == [no_username, no_password]
    assert credentials_error(new_client(URL)) == f"{no_username}; {no_password}"
    auth = BasicAuth(password_file=tmp_path / "password")
    unreadable = f"api.basic_auth.password_file ({tmp_path / 'password'}): No such file or directory"
    assert credential_problems(auth, {}) == [no_username, unreadable]
    assert credential_problems(auth, {USERNAME_VARIABLE: "client"}) == [unreadable]
    (tmp_path / "password").write_text("token")
    assert credential_problems(auth, {USERNAME_VARIABLE: "client"}) == []


def test_a_pipe_in_place_of_a_secret_file_does_not_block(new_client: NewClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    client = new_client(URL, basic_auth=BasicAuth(username=SecretStr("client"), password_file=tmp_path / "password"))
    with pytest.raises(PollError, match=r"password_file \(.*\): not a file"):
        client.api.read_credentials()


def test_credentials_of_files_can_be_rotated(api_sandbox: Sandbox, new_client: NewClient, tmp_path: Path) -> None:
    username, password = tmp_path / "username", tmp_path / "password"
    auth = BasicAuth(username_file=username, password_file=password)
    client = new_client(api_sandbox.base_url, basic_auth=auth)
    for token in ("old", API_TOKEN):
        api_sandbox.set_api_token(token)
        username.write_text(f"{CLIENT_KEY}\n", encoding="utf-8")
        password.write_text(f"{token}\n", encoding="utf-8")
        assert client.api.read_batch(REF, client.api.read_credentials()).batch.ref == REF


def test_an_unreadable_credentials_file_is_named(new_client: NewClient, tmp_path: Path) -> None:
    def error_of(path: Path) -> str:
        message = credentials_error(
            new_client(URL, basic_auth=BasicAuth(username=SecretStr("client"), password_file=path))
        )
        assert message.startswith(f"api.basic_auth.password_file ({path})")
        return message.removeprefix(f"api.basic_auth.password_file ({path})")

    file = tmp_path / "password"
    assert error_of(file) == ": No such file or directory"
    assert error_of(tmp_path) == ": Is a directory"
    file.write_bytes(b"")
    assert error_of(file) == " is empty"
    file.write_bytes(b"\n")
    assert error_of(file) == " is empty"
    file.write_bytes(API_TOKEN.encode("utf-16"))
    assert error_of(file) == " is not UTF-8"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {USERNAME_VARIABLE: "client", PASSWORD_VARIABLE: f"{API_TOKEN}\udcff"},
            f"the environment variable {PASSWORD_VARIABLE} is not UTF-8",
        ),
        (
            {USERNAME_VARIABLE: f"{CLIENT_KEY}:x", PASSWORD_VARIABLE: API_TOKEN},
            f"the environment variable {USERNAME_VARIABLE} holds a colon, which basic auth cannot send in a user name",
        ),
    ],
)
def test_credentials_that_cannot_be_sent_are_an_error(
    new_client: NewClient, environ: dict[str, str], message: str
) -> None:
    assert credentials_error(new_client(URL, environ=environ)) == message
