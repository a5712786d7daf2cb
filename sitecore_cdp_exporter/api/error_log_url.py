"""Presigned URLs of error logs, and which of them may be used."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sitecore_cdp_exporter.config.values import is_loopback


@dataclass(frozen=True, slots=True)
class LogUrl:
    """The presigned URL of an error log. It is a secret: it grants access without a password."""

    text: str = field(repr=False)

    @property
    def host(self) -> str:
        """The host that it names; empty if it is no URL."""
        try:
            return urlsplit(self.text).hostname or ""
        except ValueError:
            return ""

    def may_be_used(self, hosts: Iterable[str], base_url: str) -> bool:
        """Return whether the exporter may send a request there, as far as the URL itself shows.

        Args:
            hosts: Patterns of the hosts that are allowed, in lower case; `*` is one label.
            base_url: Where the API is. Only if that is on this machine, a log may be, too.

        """
        try:
            parts = urlsplit(self.text)
            port = parts.port
        except ValueError:
            return False
        if not re.fullmatch(r"[!-\[\]-~]+", self.text) or "@" in parts.netloc:
            return False
        if is_loopback(self.host):
            return parts.scheme in {"http", "https"} and is_loopback(urlsplit(base_url).hostname or "")
        return parts.scheme == "https" and port in {None, 443} and any(_matches(self.host, each) for each in hosts)


def _matches(host: str, pattern: str) -> bool:
    labels, wanted = host.split("."), pattern.split(".")
    return len(labels) == len(wanted) and all(
        label == each or (each == "*" and re.fullmatch(r"[a-z0-9_-]+", label))
        for label, each in zip(labels, wanted, strict=True)
    )
