"""The model of the web config file (`--web.config.file`).

Its format is that of Prometheus' exporter-toolkit, so that one file serves all exporters on a machine. A setting that
Python's TLS does not support is an error that says what to do instead; nothing is silently ignored.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sitecore_cdp_exporter.config.errors import error_lines, model_problems
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.config.section import Section
from sitecore_cdp_exporter.config.values import Duration, FilePath
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlProblem, read_yaml

# Version and cost, 22 characters of salt, of which the last encodes two bits, and 31 characters of hash.
BCRYPT_HASH = re.compile(r"\$2[abxy]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
# Each step doubles the time. At the maximum a comparison takes many seconds, and all others wait for it.
MIN_COST, MAX_COST = 4, 18
UNVERIFIED_CLIENT_AUTH_TYPES = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
CLIENT_AUTH_TYPES = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")

T = TypeVar("T")


def _check_client_auth_type(name: str) -> str:
    if name in UNVERIFIED_CLIENT_AUTH_TYPES:
        raise ValueError(
            "not supported, because Python takes no client certificates unverified; use RequireAndVerifyClientCert "
            "or VerifyClientCertIfGiven, with client_ca_file"
        )
    if name and name not in CLIENT_AUTH_TYPES:
        raise ValueError(f"expected one of {', '.join(CLIENT_AUTH_TYPES)}")
    return name or "NoClientCert"


def _check_version(name: str) -> str:
    if name in ("TLS10", "TLS11"):
        raise ValueError("not supported, because OpenSSL no longer speaks it; use TLS12 or TLS13")
    if name not in ("TLS12", "TLS13"):
        raise ValueError("expected TLS12 or TLS13")
    return name


def _text_of_number(value: object) -> object:
    """Convert a number to text: a header such as `X-XSS-Protection: 0` needs no quotes in Go."""
    return str(value) if type(value) is int else value


def _check_header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII characters")
    return value


def _check_user(name: str) -> str:
    if ":" in name:
        raise ValueError("must not contain a colon, which ends the user name in basic authentication")
    return name


def _check_hash(value: SecretStr) -> SecretStr:
    """Reject a hash that no password can match, or that takes too long to compare."""
    found = BCRYPT_HASH.fullmatch(value.get_secret_value())
    if found is None:
        raise ValueError("expected a bcrypt hash of 60 characters, which begins with $2y$, $2b$ or $2a$")
    if not MIN_COST <= int(found["cost"]) <= MAX_COST:
        raise ValueError(f"expected a bcrypt hash with a cost from {MIN_COST} to {MAX_COST}; 10 is usual")
    return value


Version = Annotated[str, AfterValidator(_check_version)]
HeaderValue = Annotated[str, BeforeValidator(_text_of_number), AfterValidator(_check_header)]
UserName = Annotated[str, AfterValidator(_check_user)]
PasswordHash = Annotated[SecretStr, AfterValidator(_check_hash)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class TlsServerConfig(Section):
    """Certificates of the exporter and of its clients. A PEM text is either inline or in a file of its own."""

    cert: str | None = None
    key: SecretStr | None = None
    client_ca: str | None = None
    cert_file: FilePath | None = Field(None, validate_default=True)
    key_file: FilePath | None = Field(None, validate_default=True)
    client_auth_type: Annotated[str, AfterValidator(_check_client_auth_type)] = "NoClientCert"
    client_ca_file: FilePath | None = Field(None, validate_default=True)
    client_allowed_sans: Names = ()
    min_version: Version = "TLS12"
    max_version: Version = Field("TLS13", validate_default=True)
    cipher_suites: Names = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: Names = ()

    @field_validator("cert_file", "key_file")
    @classmethod
    def _is_one_of_two(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        text = str(info.field_name).removesuffix("_file")
        _check_not_both(value, text, info)
        if value is None and info.data.get(text, "refused") is None:
            raise ValueError(f"{info.field_name} is missing; TLS needs both cert_file and key_file")
        return value

    @field_validator("client_ca_file")
    @classmethod
    def _fits_client_auth_type(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        _check_not_both(value, "client_ca", info)
        has_authority = value is not None or info.data.get("client_ca", "refused") is not None
        client_auth_type = info.data.get("client_auth_type", "refused")
        if has_authority and client_auth_type == "NoClientCert":
            raise ValueError("needs a client_auth_type: RequireAndVerifyClientCert, or VerifyClientCertIfGiven")
        if not has_authority and client_auth_type == "RequireAndVerifyClientCert":
            # Go would accept any certificate from any public authority.
            raise ValueError("client_ca_file is missing; RequireAndVerifyClientCert needs to know whom to trust")
        return value

    @field_validator("max_version")
    @classmethod
    def _is_not_below_minimum(cls, value: str, info: ValidationInfo) -> str:
        if value < info.data.get("min_version", value):
            raise ValueError("less than min_version")
        return value

    @field_validator("client_allowed_sans")
    @classmethod
    def _names_nobody(cls, value: T) -> T:
        return _refuse(
            value,
            "let an authority of its own sign the certificates of those who may scrape, and name it in client_ca_file",
        )

    @field_validator("cipher_suites")
    @classmethod
    def _leaves_ciphers_to_openssl(cls, value: T) -> T:
        return _refuse(value, "these are names of Go; without it OpenSSL chooses, and min_version: TLS13 is strictest")

    @field_validator("curve_preferences")
    @classmethod
    def _leaves_curves_to_openssl(cls, value: T) -> T:
        return _refuse(value, "without it OpenSSL chooses, X25519 first")


def _check_not_both(file: Path | None, text: str, info: ValidationInfo) -> None:
    if file is not None and info.data.get(text, "refused") is not None:
        raise ValueError(f"cannot be combined with {text}; remove one of the two")


def _refuse(value: T, instead: str) -> T:
    if value:
        raise ValueError(f"not supported; remove it: {instead}")
    return value


class Headers(Section):
    """Headers to add to every answer. A blank one counts as absent."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=False)

    strict_transport_security: HeaderValue | None = Field(None, alias="Strict-Transport-Security")
    x_content_type_options: Literal["nosniff"] | None = Field(None, alias="X-Content-Type-Options")
    x_frame_options: Literal["deny", "sameorigin"] | None = Field(None, alias="X-Frame-Options")
    x_xss_protection: HeaderValue | None = Field(None, alias="X-XSS-Protection")
    content_security_policy: HeaderValue | None = Field(None, alias="Content-Security-Policy")

    @model_validator(mode="before")
    @classmethod
    def without_empty_keys(cls, data: object) -> object:
        """Drop blank headers."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value not in (None, "")}


class HttpServerConfig(Section):
    """HTTP settings. `http2` is None if the file does not set it; the exporter speaks HTTP/1.1 only."""

    http2: bool | None = None
    headers: Headers = Field(default_factory=Headers)


class RateLimit(Section):
    """How many requests are answered: `burst` at once, then one an `interval` (seconds). 0: no limit."""

    interval: Duration = 0.0
    burst: int = Field(0, ge=0, validate_default=True)

    @field_validator("burst")
    @classmethod
    def _lets_somebody_in(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and info.data.get("interval", 0):
            raise ValueError("burst is missing or 0, so that no request would ever be answered; expected at least 1")
        return value


class WebConfig(Section):
    """The web config file."""

    tls_server_config: TlsServerConfig | None = None
    http_server_config: HttpServerConfig = Field(default_factory=HttpServerConfig)
    basic_auth_users: Mapping[UserName, PasswordHash] = Field(default_factory=dict)
    rate_limit: RateLimit = Field(default_factory=RateLimit)

    @model_validator(mode="before")
    @classmethod
    def without_empty_keys(cls, data: object) -> object:
        """Take empty sections for left out, and an empty file for one without any.

        A section with a key that has no value is not empty: TLS or passwords must not be off because of a slip.
        """
        if data is None:
            return {}
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in cls.model_fields or value not in (None, {})}


class ParsedWebConfig(NamedTuple):
    """A web config, and the YAML document that it was parsed from, which knows the lines."""

    config: WebConfig
    document: YamlDocument


_SECTIONS: dict[str, type[Section]] = {
    "": WebConfig,
    "tls_server_config": TlsServerConfig,
    "http_server_config": HttpServerConfig,
    "http_server_config.headers": Headers,
    "rate_limit": RateLimit,
}
_KNOWN_KEYS = {path: section.keys() for path, section in _SECTIONS.items()}


def parse_web_config(path: Path, content: bytes) -> ParsedWebConfig:
    """Parse a web config. Paths in it are relative to the file; the files that they name are not read.

    Raises ConfigError with everything that is wrong with it.
    """
    document = read_yaml(content)
    config, problems = _validate(document, path.parent)
    problems = [*document.problems, *problems]
    if config is None or problems:
        raise ConfigError(error_lines(path, problems))
    return ParsedWebConfig(config, document)


def web_config_error(path: Path, document: YamlDocument, problems: Mapping[str, str]) -> ConfigError:
    """Return an error for the problems of files named in `tls_server_config`, given by key."""
    located = ((document.locate(("tls_server_config", key)), message) for key, message in problems.items())
    return ConfigError(error_lines(path, [YamlProblem(place.line, found, text) for (found, place), text in located]))


def _validate(document: YamlDocument, directory: Path) -> tuple[WebConfig | None, list[YamlProblem]]:
    try:
        return WebConfig.model_validate(document.data, context=directory), []
    except ValidationError as error:
        return None, model_problems(error, document, _KNOWN_KEYS)
