"""A way to the sandbox that holds files back, so that a batch stays in `uploading` for as long as a test needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import requests

from tools.program import MAX_WAIT


@dataclass(frozen=True)
class UploadGate:
    """Passes requests on to the sandbox, but the PUT of a file only after `opened` is set. `url` is for uploaders."""

    url: str
    opened: Event


@contextmanager
def upload_gate(sandbox_url: str) -> Iterator[UploadGate]:
    """Run a gate in front of the sandbox until the block ends.

    The sandbox makes its presigned URLs from the Host header, which is passed on, so they lead through the gate too.
    """
    opened = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on(None)

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/storage/"):
                opened.wait(MAX_WAIT)
            self.pass_on(content)

        def pass_on(self, content: bytes | None) -> None:
            answer = requests.request(
                self.command,
                sandbox_url + self.path,
                headers=dict(self.headers),
                data=content,
                timeout=MAX_WAIT,
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  The name is http.server's.
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield UploadGate(f"http://127.0.0.1:{server.server_port}", opened)
        finally:
            opened.set()
            server.shutdown()
            thread.join()
