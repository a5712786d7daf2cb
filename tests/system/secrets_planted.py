"""Secrets for every place where one can stand, and the search for as little as eight characters of one of them."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from urllib.parse import quote

# Eight characters in a row show a secret, so that neither truncation nor a changed beginning or end hides it.
WINDOW = 8


def core(name: str) -> str:
    """Make the part that a secret is known by: small letters and digits, which no encoding but base64 changes."""
    return base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()[:16]


# What comes before the core needs escapes in URLs, JSON, YAML and HTML, and is no Latin-1.
CLIENT_KEY = 'ключ &"% ' + core("client key")
API_TOKEN = 'tökén ключ/&"<%+ ' + core("API token")
OTHER_TOKEN = f"other {core('API token in the config')}"
ENVIRONMENT_KEY = f"key-{core('client key in the environment')}"
ENVIRONMENT_TOKEN = f"token-{core('API token in the environment')}"
PROXY_CREDENTIALS = core("proxy user") + ":" + quote("p@:/%" + core("proxy password"), safe="")
ENVIRONMENT_PROXY_CREDENTIALS = f"{core('environment proxy user')}:{core('environment proxy password')}"
# What a client sends to the exporter.
WEB_PASSWORD = f"pässwörd {core('web password')}"
WRONG_PASSWORD = f"wröng {core('wrong web password')}"
# Where it is found by accident: in another key, a file of another kind, an answer of a stranger.
MISPLACED = core("misplaced")
FOREIGN = core("said by the other side")
UPLOAD_PATH = f"/{core('path of location.href')}/upload?X-Amz-Signature={core('signature of location.href')}"
LOG_PATH = f"/{core('path of status.log')}/log?X-Amz-Signature={core('signature of status.log')}"
# What an error log quotes: data of people, and a URL.
IN_A_LOG = ("ref in an error log", "name in an error log", "email address in an error log", "URL in an error log")
CORES = {
    core(name): name
    for name in (
        *("client key", "API token", "API token in the config"),
        *("client key in the environment", "API token in the environment"),
        *("proxy user", "proxy password", "environment proxy user", "environment proxy password"),
        *("web password", "wrong web password", "misplaced", "said by the other side"),
        *("path of location.href", "signature of location.href", "path of status.log", "signature of status.log"),
        *IN_A_LOG,
    )
}


class Search:
    """Finds the secrets above.

    Args:
        others: The names of other secrets, by their text: hashes, keys.

    """

    def __init__(self, others: Mapping[str, str] | None = None) -> None:
        self._names = {
            window: name
            for secret, name in {**CORES, **(others or {})}.items()
            for text in (secret, *_in_base64(secret.encode()))
            for window in _windows(text)
        }
        self._known_lines: dict[str, frozenset[str]] = {}

    def secrets_in(self, text: str) -> set[str]:
        """Name the secrets of which a part stands in a text."""
        return {name for line in text.splitlines() for name in self._secrets_in_line(line)}

    def leaks(self, outputs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
        """Name the secrets of which a part stands in one of the texts, by where it was output."""
        found: dict[str, set[str]] = {}
        for where, text in outputs:
            if names := self.secrets_in(text):
                found.setdefault(where, set()).update(names)
        return found

    def _secrets_in_line(self, line: str) -> frozenset[str]:
        # Most lines of metrics come again and again.
        if line not in self._known_lines:
            windows = (window for spelling in {line, line.lower()} for window in _windows(spelling))
            self._known_lines[line] = frozenset(self._names[window] for window in windows if window in self._names)
        return self._known_lines[line]


def pem_lines(pem: str) -> str:
    """Return what is secret in a PEM text, in one line."""
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))


def error_log() -> bytes:
    """Return what stands behind `status.log`: secrets in every field, in lines that are right and in others."""
    ref, name, address, url = map(core, IN_A_LOG)
    said = f"{name} <{address}@example.org> https://bucket.example/?X-Amz-Signature={url}"
    lines = [
        *({"ref": ref, "code": code, "message": f"Validation error: {said}"} for code in ("400", 404, said, None)),
        {"ref": ref, "code": 400, "message": {said: [said]}, said: said},
        [said],
        said,
    ]
    return gzip.compress("\n".join([*map(json.dumps, lines), f'{{"{said}', said]).encode())


def batch_answer(ref: str | None, origin: str, /, **changes: object) -> bytes:
    """Return what the API answers for a batch, with presigned URLs of a host."""
    answer = {
        "ref": ref,
        "size": 7,
        "location": {"href": f"{origin}{UPLOAD_PATH}", "expiry": "2025-04-24T09:33:00.770Z"},
        "status": {"code": "error", "log": f"{origin}{LOG_PATH}"},
        "summaryStats": {"totalCount": 2, "succeededCount": 1, "failedCount": 1, "timeToProcessMillis": 5},
        "createdAt": "2025-04-24T08:33:00.770Z",
        "modifiedAt": "2025-04-24T08:46:04.000Z",
    }
    return json.dumps({**answer, **changes}).encode()


def _windows(text: str) -> Iterable[str]:
    return (text[start : start + WINDOW] for start in range(len(text) - WINDOW + 1))


def _in_base64(secret: bytes) -> Iterable[str]:
    """Yield what stays of a secret in the base64 of any text around it, in both alphabets."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode()
        whole = encoded[math.ceil(before * 8 / 6) : (before + len(secret)) * 8 // 6]
        yield whole
        yield whole.replace("+", "-").replace("/", "_")
