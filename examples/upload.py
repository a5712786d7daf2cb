#!/usr/bin/env python3
"""Upload a file of JSON lines to the Batch API of Sitecore CDP, and print the batch ref.

    export SITECORE_CDP_CLIENT_KEY=... SITECORE_CDP_API_TOKEN=...
    python upload.py --wait https://api-engage-eu.sitecorecloud.io guests.jsonl

A file that is not gzipped yet is gzipped on the way. With --wait, the exit code is 0 only if every record was
processed. It needs `requests` and nothing else of others, so copy it to where you need it.
"""
# ruff: noqa: T201, S324  A script that stands alone and prints; the checksum of the Batch API is MD5.

import argparse
import base64
import gzip
import hashlib
import os
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

import requests

GZIP_MAGIC = b"\x1f\x8b"
LARGEST_FILE = 50_000_000
FINAL_STATUSES = {"success", "corrupted", "error"}
TIMEOUT = 60  # Seconds for one answer, and for each piece of the file.


def upload(batch_url: str, auth: tuple[str, str], content: bytes) -> None:
    """Allocate the batch, then send the file to the presigned URL of the answer."""
    md5 = hashlib.md5(content)
    # The checksum must be in lower case; one in upper case ends as `corrupted`.
    response = requests.put(
        batch_url, json={"checksum": md5.hexdigest(), "size": len(content)}, auth=auth, timeout=TIMEOUT
    )
    upload_url = check(response, "Allocating the batch").json()["location"]["href"]
    headers = {
        "Content-Md5": base64.b64encode(md5.digest()).decode(),
        "Content-Type": "application/gzip",
        "x-amz-server-side-encryption": "AES256",
    }
    # The URL is signed, so it gets no password, and nobody gets to see it.
    check(requests.put(upload_url, content, headers=headers, timeout=TIMEOUT), "Uploading the file")


def wait(inspect_url: str, auth: tuple[str, str], interval: float) -> bool:
    """Ask until the batch is finished; tells whether all of its records were processed."""
    shown = None
    while True:
        body = check(requests.get(inspect_url, auth=auth, timeout=TIMEOUT), "Asking for the status").json()
        status: str = body["status"]["code"]
        if status != shown:
            print(status, file=sys.stderr)
            shown = status
        if status in FINAL_STATUSES:
            for name, value in body.get("summaryStats", {}).items():
                print(f"{name}: {value}", file=sys.stderr)
            return status == "success"
        time.sleep(interval)


def check(response: requests.Response, action: str) -> requests.Response:
    """Give the response back, or end the program if it is an error."""
    if not response.ok:
        sys.exit(f"{action} failed: HTTP {response.status_code} {response.reason}")
    return response


def main() -> int:
    """Read the arguments, upload, and wait if asked to. Gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="for example https://api-engage-eu.sitecorecloud.io")
    parser.add_argument("file", type=Path, help="one JSON record a line, gzipped or not; at most 50 MB gzipped")
    parser.add_argument("--ref", type=UUID, default=uuid4(), help="batch ref, a UUID; a random one if not given")
    parser.add_argument("--wait", action="store_true", help="wait until the batch is finished")
    parser.add_argument("--poll-interval", type=float, default=5.0, help="seconds; default %(default)s")
    options = parser.parse_args()
    batches_url = f"{options.base_url.rstrip('/')}/v2/batches"
    try:
        auth = os.environ["SITECORE_CDP_CLIENT_KEY"], os.environ["SITECORE_CDP_API_TOKEN"]
        content = options.file.read_bytes()
        if not content.startswith(GZIP_MAGIC):
            content = gzip.compress(content)
        if len(content) > LARGEST_FILE:
            sys.exit("The gzipped file is larger than 50 MB. Split it.")
        upload(f"{batches_url}/{options.ref}", auth, content)
        print(options.ref, flush=True)
        return 0 if not options.wait or wait(f"{batches_url}/inspect/{options.ref}", auth, options.poll_interval) else 1
    except KeyError as error:
        sys.exit(f"{error} is missing.")
    except requests.RequestException as error:
        # Only its kind: its text may hold the presigned URL.
        sys.exit(f"The request failed: {type(error).__name__}")
    except OSError as error:
        sys.exit(f"{options.file}: {error.strerror}")


if __name__ == "__main__":
    sys.exit(main())
