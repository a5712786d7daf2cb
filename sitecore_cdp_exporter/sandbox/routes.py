"""The endpoints of the Batch API: allocate a batch, get one, list them."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sitecore_cdp_exporter.sandbox.answers import batch_body, describe, error_answer, list_item
from sitecore_cdp_exporter.sandbox.records import is_uuid
from sitecore_cdp_exporter.sandbox.state import Batch, Batches, State
from sitecore_cdp_exporter.sandbox.storage import MAX_UPLOAD_BYTES, Storage

BATCHES_PATH = "/v2/batches"
INSPECT_PATH = f"{BATCHES_PATH}/inspect"
# Sitecore's documented curl command sends JSON without a Content-Type, so curl sends that of HTML forms.
ACCEPTED_CONTENT_TYPES = frozenset(
    {"application/json", "application/octet-stream", "application/x-www-form-urlencoded"}
)


class Allocation(BaseModel):
    """What an uploader declares about its file: the MD5 in hex, in either case, and the size in bytes."""

    model_config = ConfigDict(strict=True)

    checksum: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")]
    size: Annotated[int, Field(gt=0, le=MAX_UPLOAD_BYTES)]


class ListQuery(BaseModel):
    """The query parameters of the list."""

    status: str = ""
    created_before: Annotated[datetime | None, Field(alias="createdBefore")] = None
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] = 10


class BatchRoutes:
    """Handles requests to the Batch API. A page of the list has at most `max_page_size` items."""

    def __init__(self, batches: Batches, storage: Storage, *, max_page_size: int) -> None:
        self._batches = batches
        self._storage = storage
        self._max_page_size = max_page_size

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, with `inspect` before the refs."""
        return [
            web.get(INSPECT_PATH, self._list),
            web.get(INSPECT_PATH + "/{ref}", self._inspect),
            web.get(BATCHES_PATH + "/{ref}", self._show),
            web.put(BATCHES_PATH + "/{ref}", self._allocate),
        ]

    async def _allocate(self, request: web.Request) -> web.Response:
        ref = request.match_info["ref"]
        if not is_uuid(ref):
            return error_answer(HTTPStatus.BAD_REQUEST, "The batch ref must be a UUID")
        if request.content_type not in ACCEPTED_CONTENT_TYPES:
            return error_answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            allocation = Allocation.model_validate_json(await request.read())
            batch = self._batches.allocate(ref=ref, checksum=allocation.checksum, size=allocation.size)
        except ValidationError as error:
            return error_answer(HTTPStatus.BAD_REQUEST, describe(error))
        if batch is None:
            return error_answer(HTTPStatus.CONFLICT, "A batch with this ref exists already")
        return self._answer(request, batch, batch.states[0])

    async def _show(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return error_answer(HTTPStatus.NOT_FOUND)
        batch, state = found
        # This endpoint predates the status `file_uploaded`, and does not report it.
        status = "uploading" if state.status == "file_uploaded" else state.status
        return self._answer(request, batch, state, status=status)

    async def _inspect(self, request: web.Request) -> web.Response:
        found = self._find(request)
        return error_answer(HTTPStatus.NOT_FOUND) if found is None else self._answer(request, *found)

    async def _list(self, request: web.Request) -> web.Response:
        try:
            query = ListQuery.model_validate(dict(request.query))
        except ValidationError as error:
            return error_answer(HTTPStatus.BAD_REQUEST, describe(error))
        limit = min(query.limit, self._max_page_size)
        created_before = query.created_before
        if created_before is not None and created_before.tzinfo is None:
            created_before = created_before.replace(tzinfo=UTC)
        total, page = self._batches.page(
            statuses={status.strip() for status in query.status.split(",")} - {""},
            created_before=created_before,
            offset=query.offset,
            limit=limit,
        )
        inspect_url = _origin(request) + INSPECT_PATH
        items = [list_item(batch, state, href=f"{inspect_url}/{batch.ref}") for batch, state in page]
        return web.json_response({"totalCount": total, "offset": query.offset, "limit": limit, "items": items})

    def _find(self, request: web.Request) -> tuple[Batch, State] | None:
        batch = self._batches.get(request.match_info["ref"])
        return None if batch is None else (batch, batch.state_at(self._batches.now()))

    def _answer(self, request: web.Request, batch: Batch, state: State, *, status: str | None = None) -> web.Response:
        origin = _origin(request)
        body = batch_body(
            batch,
            state,
            status=status or state.status,
            href=origin + request.path,
            upload_url=self._storage.upload_url(origin, batch),
            log_url=self._storage.log_url(origin, batch),
        )
        return web.json_response(body)


def _origin(request: web.Request) -> str:
    """Return scheme, host and port as the client sent them, so that it can also reach the storage."""
    return f"{request.scheme}://{request.headers.get(hdrs.HOST, '')}"
