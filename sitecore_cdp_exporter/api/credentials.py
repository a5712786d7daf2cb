"""The credentials for the Batch API, and where they come from."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.files import read_regular_file
from sitecore_cdp_exporter.config.model import BasicAuth

USERNAME_VARIABLE = "SITECORE_CDP_CLIENT_KEY"
PASSWORD_VARIABLE = "SITECORE_CDP_API_TOKEN"  # noqa: S105  The name of the variable, not the token.

MAX_SECRET = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """The client key and the API token, as basic auth sends them."""

    username: str = field(repr=False)
    password: str = field(repr=False)


def read_credentials(auth: BasicAuth, environ: Mapping[str, str]) -> Credentials:
    """Read user name and password from where the config says, at each call, so that they can be rotated.

    Raises:
        PollError: Something is missing or cannot be sent by basic auth; the message names all of it.

    """
    problems: list[str] = []
    credentials = _read(auth, environ, problems)
    if problems:
        raise PollError(Reason.CREDENTIALS, "; ".join(problems))
    return credentials


def credential_problems(auth: BasicAuth, environ: Mapping[str, str]) -> list[str]:
    """Return a message for each reason why user name and password cannot be read now; empty if they can."""
    problems: list[str] = []
    _read(auth, environ, problems)
    return problems


def credential_sources(auth: BasicAuth, environ: Mapping[str, str]) -> list[str]:
    """Return where user name and password are read from: keys of the config, files or environment variables."""
    return [source for secret in _secrets(auth) if (source := secret.source(environ))]


def _read(auth: BasicAuth, environ: Mapping[str, str], problems: list[str]) -> Credentials:
    values: list[str] = []
    for secret in _secrets(auth):
        try:
            values.append(secret.read(environ))
        except _SecretError as error:
            problems.append(f"{error}")
            values.append("")
    username, password = values
    return Credentials(username, password)


class _SecretError(Exception):
    """A secret cannot be read or sent. The message says which and why, without quoting it."""


@dataclass(frozen=True, slots=True)
class _Secret:
    """The sources of a secret, in order of precedence: the value in the config, the file, the environment variable."""

    key: str
    value: SecretStr | None
    file: Path | None
    variable: str

    def source(self, environ: Mapping[str, str]) -> str | None:
        if self.value is not None:
            return f"api.basic_auth.{self.key}"
        if self.file is not None:
            return f"api.basic_auth.{self.key}_file ({self.file})"
        return f"the environment variable {self.variable}" if self.variable in environ else None

    def read(self, environ: Mapping[str, str]) -> str:
        source = self.source(environ)
        if source is None:
            remedy = f"set api.basic_auth.{self.key}_file or the environment variable {self.variable}"
            raise _SecretError(f"there is no {self.key}: {remedy}")
        if self.value is not None:
            text = self.value.get_secret_value()
        elif self.file is not None:
            text = _read_file(self.file, source)
        else:
            text = _stripped(environ[self.variable])
        if problem := _problem(text, may_hold_colon=self.key == "password"):
            raise _SecretError(f"{source} {problem}")
        return text


def _secrets(auth: BasicAuth) -> tuple[_Secret, _Secret]:
    return (
        _Secret("username", auth.username, auth.username_file, USERNAME_VARIABLE),
        _Secret("password", auth.password, auth.password_file, PASSWORD_VARIABLE),
    )


def _read_file(path: Path, source: str) -> str:
    try:
        content = read_regular_file(path, MAX_SECRET)
    except OSError as error:
        problem = error.strerror
    else:
        # What is not UTF-8 becomes surrogates, as Python does it with the environment.
        return _stripped(content.decode(errors="surrogateescape"))
    # Raised out here so that no other error is chained.
    raise _SecretError(f"{source}: {problem}")


def _stripped(text: str) -> str:
    """Drop what editors and shells add at the ends: line breaks, blanks, and the byte order mark of Windows."""
    return re.sub(r"\A[\s\ufeff]+|[\s\ufeff]+\Z", "", text)


def _problem(secret: str, *, may_hold_colon: bool) -> str | None:
    """Return why a secret cannot be sent, or cannot be what was meant."""
    if not secret:
        return "is empty"
    categories = [unicodedata.category(character) for character in secret]
    # Bytes that are not UTF-8 have become surrogates.
    if "Cs" in categories:
        return "is not UTF-8"
    # A secret in the config itself is rejected in the same way on load.
    if "Cc" in categories:
        return "holds a line break or another control character"
    for character, place in ((secret[0], "begins"), (secret[-1], "ends")):
        if not character.isprintable():
            name = unicodedata.name(character, "")
            return f"{place} with an invisible character: U+{ord(character):04X} {name}".rstrip()
    if ":" in secret and not may_hold_colon:
        return "holds a colon, which basic auth cannot send in a user name"
    return None
