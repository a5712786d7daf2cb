"""The object storage of the Batch API: presigned URLs for uploads and error logs, as in S3."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import urlencode

from aiohttp import hdrs, web

from sitecore_cdp_exporter.sandbox.state import Batch, Batches

STORAGE_PATH = "/storage/"
UPLOAD_NAME = "import.json.gz"
LOG_NAME = "error.log.gz"
MAX_UPLOAD_BYTES = 50 * 1024**2
LOG_URL_LIFETIME = timedelta(hours=1)


class StorageError(Exception):
    """An error with an S3 error code."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def answer(self) -> web.Response:
        """Return the response, with an XML body like that of S3."""
        error = f"<Error><Code>{self.code}</Code><Message>{self}</Message></Error>"
        return web.Response(
            text=f'<?xml version="1.0" encoding="UTF-8"?>\n{error}', status=self.status, content_type="application/xml"
        )


class Storage:
    """Signs URLs, and handles requests to them. `receive_file` is called with the ref and content of each upload."""

    def __init__(self, batches: Batches, receive_file: Callable[[str, bytes], None]) -> None:
        self._batches = batches
        self._receive_file = receive_file
        self._key = secrets.token_bytes(32)
        self.log_url_lifetime = LOG_URL_LIFETIME

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the storage."""
        path = STORAGE_PATH + "{ref}/"
        return [web.put(path + UPLOAD_NAME, self._upload), web.get(path + LOG_NAME, self._download_log)]

    def upload_url(self, origin: str, batch: Batch) -> str:
        """Sign the upload URL of this batch."""
        return origin + self._sign(hdrs.METH_PUT, f"{STORAGE_PATH}{batch.ref}/{UPLOAD_NAME}", batch.upload_expiry)

    def log_url(self, origin: str, batch: Batch) -> str:
        """Sign a URL for this batch's error log, valid for an hour."""
        expiry = self._batches.now() + self.log_url_lifetime
        return origin + self._sign(hdrs.METH_GET, f"{STORAGE_PATH}{batch.ref}/{LOG_NAME}", expiry)

    def _sign(self, method: str, path: str, expiry: datetime) -> str:
        expires = str(int(expiry.timestamp()))
        return f"{path}?{urlencode({'Expires': expires, 'Signature': self._signature(method, path, expires)})}"

    def _signature(self, method: str, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{method}\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _check_signature(self, request: web.Request) -> None:
        if hdrs.AUTHORIZATION in request.headers:
            raise StorageError(
                HTTPStatus.BAD_REQUEST, "InvalidArgument", "Only one auth mechanism allowed: signature or Authorization"
            )
        expires = request.query.get("Expires", "")
        expected = self._signature(request.method, request.path, expires)
        if not hmac.compare_digest(expected, request.query.get("Signature", "").encode("ascii", "replace").decode()):
            raise StorageError(HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", "The signature does not match")
        if datetime.fromtimestamp(int(expires), UTC) <= self._batches.now():
            raise StorageError(HTTPStatus.FORBIDDEN, "AccessDenied", "Request has expired")

    async def _upload(self, request: web.Request) -> web.Response:
        try:
            self._check_signature(request)
            content = await _read_file(request)
        except StorageError as error:
            return error.answer()
        self._receive_file(request.match_info["ref"], content)
        md5 = hashlib.md5(content).hexdigest()
        return web.Response(headers={hdrs.ETAG: f'"{md5}"'})

    async def _download_log(self, request: web.Request) -> web.Response:
        try:
            self._check_signature(request)
        except StorageError as error:
            return error.answer()
        batch = self._batches.get(request.match_info["ref"])
        log = batch.state_at(self._batches.now()).error_log if batch else None
        if log is None:
            return StorageError(HTTPStatus.NOT_FOUND, "NoSuchKey", "The specified key does not exist.").answer()
        return web.Response(body=log, content_type="application/gzip")


async def _read_file(request: web.Request) -> bytes:
    """Read an upload, and verify its Content-MD5 as S3 does."""
    if request.headers.get(hdrs.TRANSFER_ENCODING):
        raise StorageError(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", "Transfer-Encoding is not implemented")
    if request.content_length is None:
        raise StorageError(HTTPStatus.LENGTH_REQUIRED, "MissingContentLength", "Content-Length is missing")
    if request.content_length > MAX_UPLOAD_BYTES:
        raise StorageError(HTTPStatus.BAD_REQUEST, "EntityTooLarge", "The file is larger than the maximum allowed size")
    content = await request.read()
    if (declared := request.headers.get(hdrs.CONTENT_MD5)) is not None:
        try:
            digest = base64.b64decode(declared, validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != hashlib.md5().digest_size:
            raise StorageError(HTTPStatus.BAD_REQUEST, "InvalidDigest", "The Content-MD5 is not valid")
        if digest != hashlib.md5(content).digest():
            raise StorageError(HTTPStatus.BAD_REQUEST, "BadDigest", "The Content-MD5 does not match the body")
    return content
