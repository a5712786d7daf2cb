"""The config file: YAML -> frozen models, which also generate `config.schema.json`.

`python -m sitecore_cdp_exporter.config.model` prints that schema.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

from sitecore_cdp_exporter.config.calendar import Calendar
from sitecore_cdp_exporter.config.errors import error_lines, model_problems, one_line
from sitecore_cdp_exporter.config.files import read_regular_file, why_unread
from sitecore_cdp_exporter.config.names import LABEL_NAME_SCHEMA, REF_SCHEMA, Feed, LabelName, Ref, RefPrefix
from sitecore_cdp_exporter.config.rules import broken_rules
from sitecore_cdp_exporter.config.section import Section, duration
from sitecore_cdp_exporter.config.values import (
    MAX_RECORDS,
    BaseUrl,
    Duration,
    FilePath,
    FilePattern,
    HostPattern,
    Interval,
    Password,
    ProxyUrl,
    Ratio,
    Timeout,
    Username,
)
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlProblem, read_yaml


def _allow_refs(schema: dict[str, Any]) -> None:
    schema["items"] = {"anyOf": [REF_SCHEMA, schema["items"]]}


class BasicAuth(Section):
    """The client key and the API token. Defaults: SITECORE_CDP_CLIENT_KEY and SITECORE_CDP_API_TOKEN."""

    username: Username | None = Field(
        None, description="The client key. Default: username_file, or the environment variable SITECORE_CDP_CLIENT_KEY."
    )
    username_file: FilePath | None = Field(
        None, description="A file that holds the client key. Changes need no restart. Not with username."
    )
    password: Password | None = Field(
        None, description="The API token. Default: password_file, or the environment variable SITECORE_CDP_API_TOKEN."
    )
    password_file: FilePath | None = Field(
        None, description="A file that holds the API token. Changes need no restart. Not with password."
    )


class TlsConfig(Section):
    """TLS settings for requests to the Batch API."""

    ca_file: FilePath | None = Field(
        None, description="PEM file with the certificate authorities to trust instead of the default ones."
    )
    cert_file: FilePath | None = Field(
        None, description="PEM file with the exporter's client certificate. Only with key_file."
    )
    key_file: FilePath | None = Field(
        None, description="PEM file with the key of the client certificate. Only with cert_file."
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="Do not check the server's certificate. Anyone on the network path can read the token.",
    )


class ApiConfig(Section):
    """Where the Batch API is, and how to query it."""

    base_url: BaseUrl = Field(
        description="The API of your region, without /v2. http:// is for loopback hosts only.",
        examples=["https://api-engage-eu.sitecorecloud.io"],
    )
    basic_auth: BasicAuth = Field(
        default_factory=BasicAuth, description="The credentials. Default: those in the environment."
    )
    endpoint: Literal["batches", "inspect"] = Field(
        "batches",
        description="batches: GET /v2/batches/<ref>. inspect: GET /v2/batches/inspect/<ref>, which also reports the "
        "status file_uploaded.",
    )
    timeout: Timeout = duration("5s", "How long one request may take, from connecting to the last byte. At most 2m.")
    concurrency: int = Field(16, ge=1, le=256, description="The maximum number of concurrent requests.")
    tls_config: TlsConfig = Field(default_factory=TlsConfig, description="TLS settings for requests to the API.")
    proxy_url: ProxyUrl | None = Field(
        None, description="The HTTP proxy for all requests, http:// or https://. It may contain credentials."
    )
    proxy_from_environment: bool = Field(
        default=False,
        description="Use HTTPS_PROXY and NO_PROXY. Loopback hosts are never proxied. Not with proxy_url.",
    )


Labels = Annotated[Mapping[LabelName, str], Field(json_schema_extra={"propertyNames": LABEL_NAME_SCHEMA})]


class WatchedBatch(Section):
    """A batch to watch."""

    ref: Ref = Field(description="The UUID that the batch was allocated with.")
    feed: Feed | None = Field(None, description="The recurring upload that the batch belongs to; many refs share one.")
    labels: Labels = Field(
        default_factory=dict,
        description="Labels on every series of this batch, for example to route its alerts. They win over the feed's.",
    )

    replaces: Annotated[tuple[Ref, ...], Field(strict=False)] = Field(
        (), description="The failed batches that this one replaces: once it is accepted, they are superseded."
    )

    @field_validator("replaces")
    @classmethod
    def _are_others(cls, replaces: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("ref", "").lower() in map(str.lower, replaces):
            raise ValueError("must name other batches, not this one")
        return replaces

    @model_validator(mode="before")
    @classmethod
    def _from_ref(cls, data: object) -> object:
        """Accept a bare ref as a mapping with only that."""
        if isinstance(data, str):
            return {"ref": data}
        if not isinstance(data, dict | WatchedBatch):
            raise ValueError("expected a ref, or a mapping with ref, feed, labels and replaces")  # noqa: TRY004  Pydantic's rule.
        return data

    def agrees_with(self, other: Self) -> bool:
        """Whether two entries for the same ref agree on everything else."""

        def content(batch: WatchedBatch) -> tuple[object, ...]:
            return batch.feed, batch.labels, frozenset(map(str.lower, batch.replaces))

        return content(self) == content(other)


class Retention(Section):
    """How long finished batches from batch files and discovery are shown, counted from their last change."""

    succeeded: Duration = duration("24h", "For batches with the status success.")
    failed: Duration = duration("7d", "For batches with the status error or corrupted.")


class Discovery(Section):
    """Watching batches that nobody listed."""

    enabled: bool = Field(
        default=False, description="Watch every batch that the API lists. Only with the endpoint inspect."
    )
    max_batches: int = Field(
        500, ge=1, le=10_000, description="The maximum number of batches to show that only discovery found."
    )


class FeedConfig(Section):
    """A recurring upload, and what is expected of it."""

    name: Feed = Field(description="The name by which batches refer to the feed.")
    labels: Labels = Field(
        default_factory=dict, description="Labels on every series of the feed, and on those of its batches."
    )
    expect_success_every: Interval | None = Field(
        None, description="How often a batch of the feed should be accepted. Not with expect_success_by."
    )
    expect_success_by: Calendar | None = Field(
        None, description="By when, on which days. Not with expect_success_every; without both nothing is expected."
    )
    grace: Duration = duration(
        "0s", "How much later still counts as on time. Only with expect_success_every or expect_success_by."
    )
    max_failed_ratio: Ratio = Field(
        0,
        validate_default=True,
        description="A batch with the status error is accepted up to this share of failed records, from 0 to 1.",
    )
    min_records: int = Field(
        0, ge=0, le=MAX_RECORDS, description="The minimum number of records in a batch of the feed."
    )
    next_success_resolves: bool = Field(
        default=False,
        description="An accepted batch supersedes failed ones created before it. For feeds of full snapshots.",
    )
    ref_prefix: RefPrefix | None = Field(
        None,
        description="Discovered batches whose refs begin with this belong to the feed: at least 8 hex digits, with or "
        "without dashes.",
    )

    @property
    def expects(self) -> bool:
        """Whether a batch is expected by some time."""
        return self.expect_success_every is not None or self.expect_success_by is not None

    @field_validator("grace")
    @classmethod
    def _is_with_expectation(cls, value: float, info: ValidationInfo) -> float:
        expectations = (info.data.get(key, "refused") for key in ("expect_success_every", "expect_success_by"))
        if value and all(each is None for each in expectations):
            raise ValueError("needs expect_success_every or expect_success_by")
        return value


class ErrorLogs(Section):
    """Whether to read error logs, and from where."""

    enabled: bool = Field(
        default=True, description="Read the error log of each failed batch, once. Only counts are kept."
    )
    hosts: Annotated[tuple[HostPattern, ...], Field(strict=False)] = Field(
        ("*.s3.amazonaws.com", "*.s3.*.amazonaws.com"),
        description="The hosts that error logs may be downloaded from. * stands for one label.",
        json_schema_extra={"minItems": 1},
    )

    @field_validator("hosts")
    @classmethod
    def _are_some(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not hosts:
            raise ValueError("must not be empty; write enabled: false to read no error log")
        return hosts


class Config(Section):
    """The config file of sitecore-cdp-batch-exporter."""

    api: ApiConfig = Field(description="Where the Batch API is, and how to query it.")
    batches: Annotated[tuple[WatchedBatch, ...], Field(strict=False)] = Field(
        (),
        description="The batches to watch: refs, or mappings with ref, feed and labels.",
        json_schema_extra=_allow_refs,
    )
    batch_files: Annotated[tuple[FilePattern, ...], Field(strict=False)] = Field(
        (),
        description="Files with lists like batches: paths or globs, relative to this file. The next scrape picks up "
        "changes.",
    )
    retention: Retention = Field(
        default_factory=Retention, description="How long finished batches from batch files and discovery are shown."
    )
    recheck_finished: Duration = duration(
        "24h", "How often a finished batch is polled again, in case it changed. 0s: at every scrape."
    )
    discovery: Discovery = Field(
        default_factory=Discovery, description="Finding the organisation's batches automatically."
    )
    feeds: Annotated[tuple[FeedConfig, ...], Field(strict=False)] = Field(
        (),
        description="Recurring uploads, and what is expected of them. A batch may name a feed that is not listed here.",
    )

    error_logs: ErrorLogs = Field(
        default_factory=ErrorLogs, description="Reading error logs, to count rejected records by cause."
    )

    @cached_property
    def feeds_by_name(self) -> Mapping[str, FeedConfig]:
        """The feeds of `feeds`, by their name."""
        return {feed.name: feed for feed in self.feeds}


class ConfigError(Exception):
    """A config file is invalid.

    `errors` has one line per mistake: `file:line: path.to.key: message`.
    """

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


SECTIONS: dict[str, type[Section]] = {
    "": Config,
    "api": ApiConfig,
    "api.basic_auth": BasicAuth,
    "api.tls_config": TlsConfig,
    "batches": WatchedBatch,
    "retention": Retention,
    "discovery": Discovery,
    "feeds": FeedConfig,
    "feeds.expect_success_by": Calendar,
    "error_logs": ErrorLogs,
}
KNOWN_KEYS = {path: section.keys() for path, section in SECTIONS.items()}
# Enough for 50,000 batches with feed and labels, which take seconds to parse.
MAX_FILE_BYTES = 10 * 1024 * 1024


def read_file(path: Path) -> bytes:
    """Return the content of a config file. Raises OSError."""
    return read_regular_file(path, MAX_FILE_BYTES)


def load_config(path: Path, read: Callable[[Path], bytes] = read_file) -> Config:
    """Read and validate the config file. Files that it names need not exist.

    Raises ConfigError with all mistakes.
    """
    try:
        content = read(path)
    except OSError as error:
        failure = ConfigError([one_line(f"{path}: {why_unread(error)}")])
    else:
        document = read_yaml(content)
        config, problems = _validate(document, path.parent)
        problems = [*document.problems, *problems, *broken_rules(document)]
        if config is not None and not problems:
            return config
        failure = ConfigError(error_lines(path, problems))
    # Raised here so that it does not chain an error that may hold a secret.
    raise failure


def _validate(document: YamlDocument, directory: Path) -> tuple[Config | None, list[YamlProblem]]:
    """Return the config, or its problems."""
    if document.data is None and not document.problems:
        return None, [YamlProblem(document.place.line, (), "no settings; at least api.base_url is needed")]
    try:
        return Config.model_validate(document.data, context=directory), []
    except ValidationError as error:
        return None, model_problems(error, document, KNOWN_KEYS)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the config file, for editors."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **Config.model_json_schema()}


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
