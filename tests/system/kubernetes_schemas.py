"""What Kubernetes and the Prometheus operator accept, and what a JSON Schema does."""

import sys
from functools import cache
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# The oldest that kubernetes-validate has schemas of. The newest is the other one that is checked.
OLDEST = "1.25"
DURATION = r"^((\d+)h)?((\d+)m)?((\d+)s)?$"


@cache
def jsonschema() -> ModuleType:
    """Import the library of that name, but not in each process that collects the tests, since that takes long.

    Most of it would be the grammar of RFC 3987, which only checks formats that we do not check.
    """
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415
    finally:
        del sys.modules["rfc3987_syntax"]
    return jsonschema  # type: ignore[no-any-return]


@cache
def kubernetes_validate() -> ModuleType:
    """Likewise."""
    jsonschema()
    import kubernetes_validate.utils  # type: ignore[import-untyped]  # noqa: PLC0415

    # It would read all definitions of a version, megabytes, for each manifest.
    kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
    return kubernetes_validate  # type: ignore[no-any-return]


def check_schema(content: Any) -> None:  # noqa: ANN401  What YAML holds.
    """Raise ValidationError if Kubernetes' own schemas do not accept a manifest."""
    for version in (OLDEST, kubernetes_validate().latest_version()):
        kubernetes_validate().validate(content, version, strict=True)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    labels: dict[str, str]


class Relabeling(Strict):
    action: Literal["labeldrop", "replace"] = "replace"
    regex: str = "(.*)"
    targetLabel: str = ""  # noqa: N815  The names are the API's.
    replacement: str = "$1"


class Key(Strict):
    name: str
    key: str


class SecretOrConfigMap(Strict):
    secret: Key


class TlsConfig(Strict):
    ca: SecretOrConfigMap
    serverName: str  # noqa: N815


class BasicAuth(Strict):
    username: Key
    password: Key


class Endpoint(Strict):
    port: str
    path: str
    interval: str = Field(pattern=DURATION)
    scrapeTimeout: str = Field(pattern=DURATION)  # noqa: N815
    scheme: Literal["http", "https"] = "http"
    tlsConfig: TlsConfig | None = None  # noqa: N815
    basicAuth: BasicAuth | None = None  # noqa: N815
    honorLabels: bool  # noqa: N815
    relabelings: list[Relabeling]


class Selector(Strict):
    matchLabels: dict[str, str]  # noqa: N815


class ServiceMonitorSpec(Strict):
    selector: Selector
    endpoints: list[Endpoint] = Field(min_length=1)


class ServiceMonitor(Strict):
    """Only the fields that we use, written from the operator's API reference.

    kubernetes-validate has no schemas of custom resources. So this finds misspelled and misplaced keys and wrong types,
    but it is not the operator's own schema.
    """

    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: ServiceMonitorSpec
