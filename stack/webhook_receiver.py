"""Print the alerts that Alertmanager sends by its webhook, for people to read.

    python stack/webhook_receiver.py --web.listen-address=127.0.0.1:9099

It stands in for mail, Slack or a pager in `make stack` and in compose.yaml. It needs nothing but Python, so that the
image of the exporter can run it.
"""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 9099
MAX_PORT = 65535
# Far more than Alertmanager sends for a thousand alerts.
MAX_BODY = 16 * 1024 * 1024
# Python makes no number of thousands of digits.
NUMBER = re.compile("[0-9]{1,9}")


def describe(notification: object) -> list[str]:
    """Return the lines to print for a notification of Alertmanager's webhook (version 4).

    Raises:
        ValueError: It is not a notification.

    """
    match notification:
        case {"alerts": [*alerts], **rest} if alerts:
            lines = [line for alert in alerts for line in _describe_alert(alert)]
            if rest.get("receiver") == "remind":
                lines.insert(0, "REMINDER")
            match rest.get("truncatedAlerts"):
                case int(more) if more > 0:
                    lines.append(f"and {more} more")
            return lines
        case _:
            raise ValueError("this is no notification of Alertmanager")


def _describe_alert(alert: object) -> list[str]:
    match alert:
        case {
            "status": "firing" | "resolved" as status,
            "labels": dict(labels),
            "annotations": dict(annotations),
            **rest,
        }:
            name = labels.get("alertname", "an alert without a name")
            which = [f"{label}={labels[label]}" for label in ("job", "feed", "ref") if label in labels]
            heading: list[object] = [status.upper(), labels.get("severity", ""), name, *which]
            text = [annotations.get(key, "") for key in ("summary", "description", "runbook_url")]
            since = rest.get("startsAt")
            if status == "resolved":
                text = ["Over, or no longer watched.", f"It was: {text[0]}"]
            elif since:
                text.insert(-1, f"Firing since {since}")
            return [
                _printable(" ".join(str(part) for part in heading if part)),
                *(f"    {_printable(line)}" for part in text for line in str(part).split("\n") if line),
            ]
        case _:
            raise ValueError("one of the alerts has no status, labels or annotations")


def _printable(text: object) -> str:
    """Keep what could steer a terminal, or look like another alert, out of a line."""
    return "".join(character if character.isprintable() else " " for character in str(text))


class WebhookReceiver(ThreadingHTTPServer):
    """Hands the lines of each notification to `show`. A GET is answered 200, for health checks."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], show: Callable[[Sequence[str]], None]) -> None:
        super().__init__(address, _Handler)
        self.show = show

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  The base class says no more.
        """Say nothing of a client that is gone before it has its answer."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: WebhookReceiver
    # For each read from a client that sends nothing.
    timeout = 10.0

    def do_GET(self) -> None:
        self._answer(HTTPStatus.OK, "This prints the alerts that Alertmanager sends.")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not NUMBER.fullmatch(length) or int(length) > MAX_BODY:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body has no length, or is too large")
            return
        try:
            lines = describe(json.loads(self.rfile.read(int(length))))
        except (ValueError, RecursionError) as error:
            # Alertmanager retries only after a 5xx. A body that cannot be read now never can be.
            self._answer(HTTPStatus.BAD_REQUEST, f"{error}")
            return
        self.server.show(lines)
        self._answer(HTTPStatus.OK, "")

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  The name is that of the base class.
        """Log no requests: what is printed are alerts."""


def _print_alerts(lines: Sequence[str]) -> None:
    moment = time.strftime("%H:%M:%S")
    # One write, so that notifications that come at once do not mix.
    sys.stdout.write("\n".join([f"--- {moment}", *lines, ""]))
    sys.stdout.flush()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not NUMBER.fullmatch(port) or int(port) > MAX_PORT:
        raise argparse.ArgumentTypeError("expected host:port, such as 127.0.0.1:9099")
    return host, int(port)


def main(argv: Sequence[str] | None = None) -> int:
    """Print alerts until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="webhook_receiver", description="Print the alerts that Alertmanager sends.", allow_abbrev=False
    )
    parser.add_argument(
        "--web.listen-address",
        dest="address",
        type=_address,
        default=("127.0.0.1", PORT),
        metavar="ADDRESS",
        help=f"host:port to listen on (default: 127.0.0.1:{PORT})",
    )
    address = parser.parse_args(argv).address
    try:
        server = WebhookReceiver(address, _print_alerts)
    except OSError as error:
        sys.stderr.write(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with server:
        host, port = server.server_address[:2]
        sys.stdout.write(f"waiting for alerts on http://{host!s}:{port}/\n")
        sys.stdout.flush()
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
