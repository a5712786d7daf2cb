#!/usr/bin/env python3
"""Upload a file of JSON lines to the Batch API of Sitecore CDP, and print the batch ref.

    export SITECORE_CDP_CLIENT_KEY=... SITECORE_CDP_API_TOKEN=...
    python3 upload.py https://api-engage-eu.sitecorecloud.io guests.jsonl

A file that is not gzipped yet is gzipped on the way. It needs only Python 3.11, so copy it to where you need it. It
does not wait for what Sitecore CDP makes of the file: `sitecore-cdp-batch-exporter --once --wait=30m REF` does.

It guards the credentials as the exporter does: HTTPS only, except on loopback; no redirects, no ~/.netrc, and no proxy
unless asked for. TLS certificates are checked against the authorities of the system.
"""
# ruff: noqa: T201, S324  A script that stands alone and prints; the checksum of the Batch API is MD5.

import argparse
import base64
import gzip
import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from uuid import UUID, uuid4

GZIP_MAGIC = b"\x1f\x8b"
MAX_FILE_BYTES = 50_000_000
MAX_ANSWER_BYTES = 1024**2
SOCKET_TIMEOUT = 60


class RequestError(Exception):
    """A request failed, and why."""


class BatchApi:
    """The requests of an upload. `credentials` are `client key:API token`."""

    def __init__(self, base_url: str, credentials: str, *, proxy_from_environment: bool) -> None:
        check_url(base_url, "The base URL", is_loopback_allowed=True)
        if "?" in base_url or "#" in base_url:
            sys.exit("The base URL must not have a query or a fragment.")
        if re.search(r"/v2(/|$)", base_url):
            sys.exit("The base URL must end before /v2, because this script adds /v2/batches.")
        self._batches_url = f"{base_url.rstrip('/')}/v2/batches"
        self._is_local = is_loopback(base_url)
        # In UTF-8, as the API expects it.
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        # An opener made by hand has no handlers for redirects, passwords, files and FTP.
        self._opener = request.OpenerDirector()
        for handler in (
            request.ProxyHandler(None if proxy_from_environment and not self._is_local else {}),
            request.HTTPHandler(),
            request.HTTPSHandler(),
            request.HTTPErrorProcessor(),
            request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)

    def upload(self, ref: UUID, content: bytes) -> None:
        """Allocate the batch, then send the file to the presigned URL of the answer."""
        md5 = hashlib.md5(content)
        # The checksum must be in lower case; one in upper case ends as `corrupted`.
        declared = json.dumps({"checksum": md5.hexdigest(), "size": len(content)}).encode()
        upload_url = member(self._allocate(ref, declared), "location", "href")
        check_url(upload_url, "The upload URL", is_loopback_allowed=self._is_local)
        headers = {
            "Content-Length": str(len(content)),
            "Content-Md5": base64.b64encode(md5.digest()).decode(),
            "Content-Type": "application/gzip",
            "x-amz-server-side-encryption": "AES256",
        }
        # The URL is signed, so it gets no password, and nobody gets to see it. As a stream the file goes out in pieces,
        # each with a timeout of its own; bytes would share one.
        self._send("Uploading the file", request.Request(upload_url, io.BytesIO(content), headers, method="PUT"))

    def _allocate(self, ref: UUID, declared: bytes) -> Any:  # noqa: ANN401  JSON.
        headers = {
            "Authorization": self._authorization,
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        to_send = request.Request(f"{self._batches_url}/{ref}", declared, headers, method="PUT")
        content = self._send("Allocating the batch", to_send)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RequestError("Allocating the batch failed: the answer is not JSON") from None

    def _send(self, action: str, to_send: request.Request) -> bytes:
        try:
            with self._opener.open(to_send, timeout=SOCKET_TIMEOUT) as response:
                return bytes(response.read(MAX_ANSWER_BYTES))
        except HTTPError as error:
            with error:
                # Not the body: it can quote what was sent.
                message = f"{action} failed: HTTP {error.code} {http.client.responses.get(error.code, '')}".rstrip()
                raise RequestError(message) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            # The text of other errors may hold the presigned URL.
            text = reason if isinstance(reason, OSError) else type(reason).__name__
            raise RequestError(f"{action} failed: {text}") from None


def member(answer: Any, *path: str) -> str:  # noqa: ANN401  JSON.
    """Return a text inside an answer. Raises RequestError if it is not there."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(answer, str):
        raise RequestError(f"The answer has no {'.'.join(path)}, so it is not the Batch API's")
    return answer


def check_url(url: str, name: str, *, is_loopback_allowed: bool) -> None:
    """End the program if the URL is not HTTPS; plain HTTP may only go to this machine."""
    try:
        parts = urlsplit(url)
        is_url = bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-\[\]-~]+", url) is not None
    except ValueError:
        is_url = False
    if not is_url or "@" in parts.netloc:
        sys.exit(f"{name} is not a URL such as https://host, without credentials in it.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_allowed and is_loopback(url)):
        sys.exit(f"{name} is not https://; http:// is for loopback hosts only, because it would send secrets openly.")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def credential(variable: str) -> str:
    """Read a credential from the environment; end the program if basic authentication cannot carry it."""
    value = os.environ.get(variable, "")
    if not value:
        sys.exit(f"{variable} is missing.")
    if not value.isprintable():
        sys.exit(f"{variable} has a line break, another invisible character, or bytes that are not UTF-8.")
    return value


def gzipped(file: Path) -> bytes:
    """Read the file, and gzip it if it is not gzipped yet."""
    content = file.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        content = gzip.compress(content)
    if len(content) > MAX_FILE_BYTES:
        sys.exit("The gzipped file is larger than 50 MB. Split it.")
    return content


def give_up(seconds: float) -> None:
    """Exit, even while waiting: a server that sends a byte per minute never triggers a socket timeout."""
    print(f"Not finished after {seconds:g} s; gave up.", file=sys.stderr, flush=True)
    os._exit(1)


def seconds(text: str) -> float:
    """Read a time of more than 0 seconds."""
    value = float(text)
    if not 0 < value <= threading.TIMEOUT_MAX:
        raise ValueError
    return value


def main() -> int:
    """Read the arguments and upload. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="for example https://api-engage-eu.sitecorecloud.io")
    parser.add_argument("file", type=Path, help="one JSON record a line, gzipped or not; at most 50 MB gzipped")
    parser.add_argument("--ref", type=UUID, default=uuid4(), help="batch ref, a UUID; a random one if not given")
    parser.add_argument(
        "--timeout", type=seconds, default=3600.0, help="give up after so many seconds in all; default %(default)g"
    )
    parser.add_argument(
        "--proxy-from-environment", action="store_true", help="use HTTPS_PROXY and NO_PROXY; never for loopback hosts"
    )
    options = parser.parse_args()
    # Otherwise Python would write the keys that decrypt the token to the file that this names.
    os.environ.pop("SSLKEYLOGFILE", None)
    key, token = credential("SITECORE_CDP_CLIENT_KEY"), credential("SITECORE_CDP_API_TOKEN")
    if ":" in key:
        sys.exit("SITECORE_CDP_CLIENT_KEY has a colon, which ends the user name in basic authentication.")
    api = BatchApi(options.base_url, f"{key}:{token}", proxy_from_environment=options.proxy_from_environment)
    limit = threading.Timer(options.timeout, give_up, [options.timeout])
    limit.daemon = True
    limit.start()
    try:
        content = gzipped(options.file)
    except OSError as error:
        sys.exit(f"{options.file}: {error.strerror}")
    try:
        api.upload(options.ref, content)
    except RequestError as error:
        sys.exit(f"{error}.")
    print(options.ref)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
