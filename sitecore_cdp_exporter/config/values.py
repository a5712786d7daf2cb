"""Types of config values other than names: what each accepts, how it is parsed, and its JSON Schema.

The validation context is the directory of the config file, or None when code builds the models.
"""

import glob
import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, WithJsonSchema
from pydantic.config import JsonDict

from sitecore_cdp_exporter.config.names import has_characters_of
from sitecore_cdp_exporter.config.yaml import DecimalText

# Prometheus' syntax of durations, and its units in seconds.
DURATION = r"^(?=.)([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Prometheus counts nanoseconds in 63 bits, which is a little more than this.
MAX_DURATION = 292 * UNITS["y"]
MAX_TIMEOUT = 2 * UNITS["m"]
# Far more than an upload of at most 50 MB can hold. An unbounded number could be too large for a metric.
MAX_RECORDS = 1_000_000_000

# Labels separated by dots. All but the last two may be *, which stands for one label. The last does not start with a
# digit, which excludes IP addresses.
HOST_PATTERN = (
    r"^(\*\.|[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*"
    r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$"
)


def _seconds(value: object, info: ValidationInfo) -> object:
    """Convert a duration such as `1m30s` to seconds. Only code may pass a float."""
    if isinstance(value, float) and info.context is None:
        return value
    if value == "0" or (type(value) is int and value == 0):
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("needs a unit; write 5s for five seconds")  # noqa: TRY004  Pydantic's rule.
    if not isinstance(value, str) or not re.fullmatch(DURATION, value):
        raise ValueError("expected a duration such as 5s, 1m30s or 500ms; the units are y w d h m s ms, in this order")
    seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall("([0-9]+)([a-z]+)", value))
    if seconds > MAX_DURATION:
        raise ValueError("expected a duration of at most 292y")
    return seconds


def _check_timeout(seconds: float) -> float:
    """Reject a timeout that is too long to be useful, or that would fail every request."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError("expected more than 0s and at most 2m")
    return seconds


def _check_interval(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("expected more than 0s")
    return seconds


def _to_number(value: object) -> object:
    return float(value) if isinstance(value, DecimalText) else value


def _check_ratio(ratio: float) -> float:
    """Reject percentages, and NaN, which fails any comparison."""
    if not 0 <= ratio <= 1:
        raise ValueError("expected a number from 0 to 1; write 0.05 for five percent")
    return ratio


def _check_base_url(url: str) -> str:
    """Accept `https://host[:port][/prefix]`, and plain HTTP to this machine."""
    if "@" in url:
        raise ValueError("must not contain credentials; they belong in api.basic_auth")
    host = _host(url)
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment")
    if urlsplit(url).scheme == "http" and not is_loopback(host):
        raise ValueError(
            "expected https://; http:// is for loopback hosts only, because it would send the token in plain text"
        )
    if "v2" in urlsplit(url).path.lower().split("/"):
        raise ValueError("must end before /v2, because the exporter adds /v2/batches; remove /v2 and what follows it")
    return url.rstrip("/")


def check_proxy_url(url: SecretStr) -> SecretStr:
    """Require the URL of an HTTP proxy."""
    _host(url.get_secret_value())
    return url


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or not re.fullmatch(r"[!-\[\]-~]+", url):
        raise ValueError("expected a URL such as https://host or https://host:8443")
    return host


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, without asking the resolver."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_host_pattern(pattern: str) -> str:
    """Require a host name, without wildcards that would match whole top-level domains."""
    if not re.fullmatch(HOST_PATTERN, pattern):
        raise ValueError("expected a host such as *.s3.amazonaws.com, where * stands for one label, without https://")
    return pattern.lower()


def _check_credential(credential: SecretStr) -> SecretStr:
    """Reject what basic authentication cannot carry (RFC 7617, section 2)."""
    if has_characters_of(credential.get_secret_value(), "Cc", "Cs"):
        raise ValueError("must not contain a line break or another control character")
    return credential


def _check_username(username: SecretStr) -> SecretStr:
    if ":" in username.get_secret_value():
        raise ValueError("must not contain a colon, which ends the user name in basic authentication")
    return username


def _to_path(value: object, info: ValidationInfo) -> object:
    """Resolve a path against the directory of the config file."""
    if not isinstance(value, str):
        return value
    if has_characters_of(value, "Cc") or "-----BEGIN" in value:
        # This may be a private key. Unreadable paths are logged, so it must not become one.
        raise ValueError("expected the path of a file, not its content")
    if not value:
        raise ValueError("expected the path of a file")
    return (info.context or Path()) / value


def _to_pattern(value: object, info: ValidationInfo) -> object:
    """Resolve a glob likewise. Wildcards in the name of the directory itself are escaped."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("expected the path of a file, or a glob")
    if value.endswith("/"):
        raise ValueError("expected files, not a folder; write folder/*.yaml for the files in it")
    if "**" in value:
        # It would walk a whole tree, including symlinks, at each scrape.
        raise ValueError("** is not supported; name the folders, or write * for one level")
    return str(Path(glob.escape(str((info.context or Path()).absolute())), value))


_DURATION_TEXT: JsonDict = {"type": "string", "pattern": DURATION}
Duration = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"anyOf": [_DURATION_TEXT, {"const": 0}]})]
Interval = Annotated[float, BeforeValidator(_seconds), AfterValidator(_check_interval), WithJsonSchema(_DURATION_TEXT)]
Timeout = Annotated[float, BeforeValidator(_seconds), AfterValidator(_check_timeout), WithJsonSchema(_DURATION_TEXT)]

Ratio = Annotated[
    float,
    BeforeValidator(_to_number),
    AfterValidator(_check_ratio),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]

FilePath = Annotated[Path, BeforeValidator(_to_path), WithJsonSchema({"type": "string", "minLength": 1})]

FilePattern = Annotated[
    str, BeforeValidator(_to_pattern), WithJsonSchema({"type": "string", "pattern": r"^(?!.*\*\*)(?!.*/$).+$"})
]

BaseUrl = Annotated[
    str,
    AfterValidator(_check_base_url),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[hH][tT][tT][pP][sS]?://(?![^/]+(/.*)?/[vV]2(/|$))[^/@?#\s\\][^@?#\s\\]*$"}
    ),
]

HostPattern = Annotated[
    str, AfterValidator(_check_host_pattern), WithJsonSchema({"type": "string", "pattern": HOST_PATTERN})
]

Secret = Annotated[SecretStr, Field(min_length=1)]
Password = Annotated[Secret, AfterValidator(_check_credential)]
Username = Annotated[Password, AfterValidator(_check_username)]
ProxyUrl = Annotated[
    Secret, AfterValidator(check_proxy_url), Field(json_schema_extra={"pattern": "^[hH][tT][tT][pP][sS]?://"})
]
