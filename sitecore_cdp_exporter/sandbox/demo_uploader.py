"""Upload the demo's batches over the real protocol, as planned by `demo_upload_schedule.py`."""

import base64
import gzip
import hashlib
import io
import json
import logging
import sched
import time
import zipfile
from collections.abc import Callable
from functools import partial
from random import Random
from threading import Event, Thread
from uuid import UUID

import requests

from sitecore_cdp_exporter.sandbox.demo_upload_schedule import ROUND_TIME, Feed, PlannedUpload, Trouble, plan_round

logger = logging.getLogger(__name__)

# Per socket operation. Short, because `stop` may have to wait for it.
REQUEST_TIMEOUT = 2.0
BAD_RECORDS_SHARE = 0.03
# The files go to this machine only, so speed matters, not size.
_COMPRESSION_LEVEL = 1
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class DemoUploads:
    """Uploads in a background thread from `start` to `stop`.

    `announce` is called in that thread with the ref and feed of each batch, right after its allocation. `speed` divides
    all times, as in the sandbox. When the API fails, that upload is lost, and the next one is tried as planned.
    """

    def __init__(
        self,
        base_url: str,
        *,
        client_key: str,
        api_token: str,
        announce: Callable[[str, str], None],
        speed: float = 1.0,
    ) -> None:
        self._base_url = base_url
        self._auth = (client_key, api_token)
        self._announce = announce
        self._speed = speed
        self._random = Random(0)  # noqa: S311  Seeded, so that every demo is the same.
        self._session = requests.Session()
        # Loopback needs no proxy from the environment, and no netrc.
        self._session.trust_env = False
        self._scheduler = sched.scheduler(time.monotonic)
        self._is_stopping = Event()
        self._thread = Thread(target=self._work, name="demo-uploads", daemon=True)

    def start(self) -> None:
        """Start the first round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop uploading. Waits for the request in flight, if any."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * REQUEST_TIMEOUT)

    def _work(self) -> None:
        with self._session:
            self._begin_round()
            while not self._is_stopping.is_set():
                self._is_stopping.wait(self._scheduler.run(blocking=False))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            # Otherwise overdue actions would keep the thread busy after `stop`.
            if not self._is_stopping.is_set():
                action()

        self._scheduler.enter(seconds / self._speed, 0, act)

    def _begin_round(self, number: int = 0) -> None:
        for upload in plan_round(self._random, number):
            self._after(upload.time, partial(self._allocate, upload))
        self._after(ROUND_TIME, partial(self._begin_round, number + 1))

    def _allocate(self, upload: PlannedUpload) -> None:
        """Allocate a batch, and schedule the upload of its file."""
        feed = upload.feed
        content = self._file(feed, upload.trouble)
        checksum = hashlib.md5(content).hexdigest()
        ref = feed.new_ref()
        try:
            response = self._session.put(
                f"{self._base_url}/v2/batches/{ref}",
                json={
                    "checksum": checksum.upper() if upload.trouble is Trouble.UPPER_CASE_CHECKSUM else checksum,
                    "size": len(content),
                },
                auth=self._auth,
                timeout=REQUEST_TIMEOUT,
            )
            response.raise_for_status()
            upload_url = response.json()["location"]["href"]
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            # The error's text may contain a presigned URL. The same applies below.
            logger.warning("Demo upload of %s could not be allocated: %s", feed.name, type(error).__name__)
            return
        self._announce(ref, feed.name)
        self._after(upload.upload_time, partial(self._upload, feed, upload_url, content))

    def _upload(self, feed: Feed, upload_url: str, content: bytes) -> None:
        headers = {
            "Content-Md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "Content-Type": "application/gzip",
            "x-amz-server-side-encryption": "AES256",
        }
        try:
            self._session.put(upload_url, data=content, headers=headers, timeout=REQUEST_TIMEOUT).raise_for_status()
        except requests.RequestException as error:
            logger.warning("Demo upload of %s failed: %s", feed.name, type(error).__name__)

    def _file(self, feed: Feed, trouble: Trouble) -> bytes:
        """Generate the file of one upload. The number of records varies a little."""
        emails = [
            f"guest{number}@example.com" for number in range(round(feed.records * self._random.uniform(0.9, 1.1)))
        ]
        for turn, number in enumerate(
            self._random.sample(range(len(emails)), k=round(len(emails) * BAD_RECORDS_SHARE))
        ):
            if trouble is Trouble.IDENTITY_MISSING or (trouble is Trouble.TWO_CAUSES and turn % 3):
                emails[number] = ""
            elif trouble is Trouble.TWO_CAUSES:
                emails[number] = f"guest{number} at example.com"
        content = "".join(self._line(feed, number, email) for number, email in enumerate(emails)).encode()
        return _zip(content) if trouble is Trouble.ZIP else gzip.compress(content, _COMPRESSION_LEVEL, mtime=0)

    def _line(self, feed: Feed, number: int, email: str) -> str:
        # uuid4 would ask the system for each one.
        ref = UUID(int=self._random.getrandbits(128), version=4)
        value = {"referenceId": f"{feed.name}-{number}", "email": email}
        return _to_json({"ref": f"{ref}", "schema": feed.schema, "mode": "upsert", "value": value}) + "\n"


def _zip(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("import.json", content)
    return archive.getvalue()
