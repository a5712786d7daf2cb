"""The deadline of a scrape, from the timeout that Prometheus sends and the time that encoding takes."""

import math

SCRAPE_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
DEFAULT_TIMEOUT = 10.0
# Otherwise a client could hold a thread indefinitely.
MAX_TIMEOUT = 120.0
# Reserved for the network, and for encoding, which takes about as long as last time.
MIN_RESERVE = 0.5
RESERVE_PER_ENCODING = 1.5
# A short timeout must leave time to ask the API.
MAX_SHARE_OF_RESERVE = 0.5


def seconds_to_collect(timeout_header: str | None, last_encoding: float) -> float:
    """Return how many seconds a scrape may take until its values are collected.

    Args:
        timeout_header: X-Prometheus-Scrape-Timeout-Seconds; None if it was not sent.
        last_encoding: Seconds that the last scrape of this kind took to encode.

    """
    timeout = _timeout(timeout_header)
    reserve = max(MIN_RESERVE, RESERVE_PER_ENCODING * last_encoding)
    return timeout - min(reserve, MAX_SHARE_OF_RESERVE * timeout)


def _timeout(header: str | None) -> float:
    """Return the scrape timeout in seconds, or the default unless the header is a finite positive number."""
    try:
        timeout = float(header or "")
    except ValueError:
        return DEFAULT_TIMEOUT
    return min(timeout, MAX_TIMEOUT) if 0 < timeout < math.inf else DEFAULT_TIMEOUT
