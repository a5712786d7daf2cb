"""How a request can fail on its way, and the PollError that it becomes."""

import os
import socket
import ssl

from sitecore_cdp_exporter.api.errors import PollError, Reason


class BadAnswerError(Exception):
    """The answer is not HTTP, cannot be unpacked, or is too large. The message is fit for a log."""


class ClosedUnansweredError(ConnectionError):
    """The server closed a connection that had been used before instead of answering: worth one fresh connection."""


class ProxyError(ConnectionError):
    """The proxy cannot be used, cannot be reached, or refuses to connect. The message is fit for a log."""


def poll_error(error: OSError | BadAnswerError) -> PollError:
    """Return why a batch could not be read, without the text of errors that may quote the other side."""
    if isinstance(error, TimeoutError):
        return PollError(Reason.TIMEOUT, "no complete answer within api.timeout")
    if isinstance(error, ssl.SSLError):
        return PollError(Reason.TLS, describe(error))
    if isinstance(error, BadAnswerError):
        return PollError(Reason.BAD_RESPONSE, f"{error}")
    return PollError(Reason.CONNECTION, describe(error))


def describe(error: BaseException) -> str:
    """Name an error without its text, which may quote URLs, file contents or the other side."""
    match error:
        case ProxyError():
            return f"the proxy: {error}"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"{type(error).__name__} {error.reason or ''}".strip()
        case socket.gaierror():
            return "the host name has no address"
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            is_closed = isinstance(error, ConnectionError)
            return "the connection was closed before the answer was whole" if is_closed else type(error).__name__
