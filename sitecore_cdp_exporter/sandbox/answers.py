"""Response bodies: batches, the list, and errors."""

from datetime import UTC, datetime
from http import HTTPStatus
from http.client import responses
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from sitecore_cdp_exporter.sandbox.state import Batch, State

MORE_INFO_URL = "https://doc.sitecore.com/cdp"
# The code that Sitecore's REST APIs return for a missing resource. The others are not published.
NOT_FOUND_CODE = 2000


def timestamp(moment: datetime) -> str:
    """Format a time as the API does: UTC with milliseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def batch_body(batch: Batch, state: State, *, status: str, href: str, upload_url: str, log_url: str) -> dict[str, Any]:
    """Return the body for one batch with this `status`. `log_url` is used only if there is a log."""
    body: dict[str, Any] = {"href": href, "ref": batch.ref, "checksum": batch.checksum}
    if batch.size is not None:
        body["size"] = batch.size
    body["location"] = {"href": upload_url, "expiry": timestamp(batch.upload_expiry)}
    body["status"] = {"code": status}
    if state.error_log is not None:
        body["status"]["log"] = log_url
    if state.stats:
        body["summaryStats"] = dict(state.stats)
    body["createdAt"] = timestamp(batch.created_at)
    body["modifiedAt"] = timestamp(state.since)
    return body


def list_item(batch: Batch, state: State, *, href: str) -> dict[str, str]:
    """Return a batch as an item of the list, where its status is a plain string."""
    return {
        "href": href,
        "ref": batch.ref,
        "status": state.status,
        "createdAt": timestamp(batch.created_at),
        "modifiedAt": timestamp(state.since),
    }


def error_answer(status: int, message: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error with a JSON body like those of Sitecore's REST APIs."""
    message = message or responses.get(status, "Error")
    body = {
        "status": status,
        "code": NOT_FOUND_CODE if status == HTTPStatus.NOT_FOUND else status,
        "message": message,
        "developerMessage": message,
        "moreInfoUrl": MORE_INFO_URL,
    }
    return web.json_response(body, status=status, headers=headers)


def describe(error: ValidationError) -> str:
    """Describe in one line what is wrong with a request."""
    problems = [": ".join([*map(str, problem["loc"]), problem["msg"]]) for problem in error.errors()]
    return "; ".join(problems)
