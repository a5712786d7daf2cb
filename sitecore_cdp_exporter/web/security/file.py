"""The web config, reloaded when it or a file that it names changes."""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sitecore_cdp_exporter.config.errors import one_line
from sitecore_cdp_exporter.config.files import read_regular_file, why_unread
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.config.reload import ReadFile, Reloader
from sitecore_cdp_exporter.web.security.model import WebConfig, parse_web_config, web_config_error
from sitecore_cdp_exporter.web.security.passwords import Comparisons, Passwords
from sitecore_cdp_exporter.web.security.rate_limit import TokenBucket
from sitecore_cdp_exporter.web.security.tls import VERIFY_MODES, TlsFilesError, server_context

logger = logging.getLogger(__name__)

# A bundle of all public authorities is a quarter of this.
MAX_FILE_BYTES = 1024 * 1024
SECONDS_BETWEEN_LOOKS = 1.0


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises OSError."""
    return read_regular_file(path, MAX_FILE_BYTES)


def load_web_config(
    path: Path,
    read: ReadFile = read_file,
    *,
    files_may_be_missing: bool = False,
) -> tuple[WebConfig, ssl.SSLContext | None]:
    """Load a web config and the certificates and keys that it names. Logs a warning for settings without effect.

    Args:
        path: The web config.
        read: Reads a file, as `read_file` does.
        files_may_be_missing: Whether missing certificates and keys are allowed.

    Returns:
        The web config and its SSLContext, which is None without TLS or if files are missing.

    Raises:
        ConfigError: The web config is invalid. It has a line for each problem.

    """
    try:
        content = read(path)
    except OSError as error:
        failure = ConfigError([one_line(f"{path}: {why_unread(error)}")])
    else:
        config, document = parse_web_config(path, content)
        if config.http_server_config.http2 is not None:
            logger.warning("http_server_config.http2 has no effect: the exporter speaks HTTP/1.1 only")
        if config.tls_server_config is None:
            return config, None
        try:
            return config, server_context(config.tls_server_config, read)
        except TlsFilesError as error:
            if error.missing and files_may_be_missing:
                return config, None
            failure = web_config_error(path, document, error.problems)
    # Raised out here so that no other error is chained.
    raise failure


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSecurity:
    """The settings that apply to new connections and requests.

    Attributes:
        config: The web config that the rest was built from.
        tls: The context for TLS handshakes; None: plain HTTP.
        headers: Added to every answer.
        passwords: The users; None: no password is needed.
        rate_limit: Admits requests; None: no limit.

    """

    config: WebConfig
    tls: ssl.SSLContext | None = None
    headers: Mapping[str, str]
    passwords: Passwords | None = None
    rate_limit: TokenBucket | None = None


class WebConfigFile:
    """The web config file and its current settings.

    A file that is invalid, or that asks less of clients than before, changes nothing: the last good settings stay in
    use. This is logged once, and a metric shows it.

    Attributes:
        reloader: Loads it again.

    Args:
        path: The web config.

    Raises:
        ConfigError: The web config, or a certificate or key that it names, cannot be used.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._comparisons = Comparisons()
        self.reloader = Reloader("web config", path, self._reload, max_bytes=MAX_FILE_BYTES)
        self._security = self._load(self.reloader.read)

    @property
    def last(self) -> WebSecurity:
        """The settings that were loaded last. Reads no file, so it is safe on the event loop."""
        return self._security

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted. Never changes after the start."""
        return self._security.tls is not None

    @property
    def has_users(self) -> bool:
        """Whether clients need a password."""
        return self._security.passwords is not None

    async def watch(self) -> None:
        """Check the files every second, on a thread because a disk may be slow, until cancelled."""
        while True:
            await asyncio.to_thread(self.reloader.reload_if_changed, SECONDS_BETWEEN_LOOKS)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def close(self) -> None:
        """Stop the thread that compares passwords."""
        self._comparisons.close()

    def _reload(self, read: ReadFile) -> Mapping[str, object]:
        security = self._load(read)
        if refused := list(_need_a_restart(self._security.config, security.config)):
            raise ConfigError([one_line(f"{self._path}: {change} without a restart") for change in refused])
        self._security = security
        return {}

    def _load(self, read: ReadFile) -> WebSecurity:
        config, tls = load_web_config(self._path, read)
        users, limit = config.basic_auth_users, config.rate_limit
        return WebSecurity(
            config=config,
            tls=tls,
            headers=config.http_server_config.headers.model_dump(by_alias=True, exclude_none=True),
            passwords=Passwords(users, self._comparisons) if users else None,
            rate_limit=TokenBucket(limit.interval, limit.burst) if limit.interval else None,
        )


def _need_a_restart(before: WebConfig, after: WebConfig) -> Iterator[str]:
    """Yield the changes that need a restart.

    A truncated file is often a valid one without the passwords. So a file that asks for less may be one that is
    still being written, or that did not fit on the disk.
    """
    if before.basic_auth_users and not after.basic_auth_users:
        yield "basic_auth_users cannot be removed"
    old, new = before.tls_server_config, after.tls_server_config
    if old is None and new is None:
        return
    if old is None or new is None:
        yield "TLS cannot be switched on or off"
        return
    if VERIFY_MODES[new.client_auth_type] < VERIFY_MODES[old.client_auth_type]:
        yield "tls_server_config.client_auth_type cannot ask for less"
    if new.min_version < old.min_version:
        yield "tls_server_config.min_version cannot be lowered"
