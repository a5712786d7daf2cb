"""What the exporter says of itself, beside what it has found out."""

from collections.abc import Mapping
from dataclasses import dataclass

from sitecore_cdp_exporter.config.model import ApiConfig
from sitecore_cdp_exporter.config.reload import ReloadState


@dataclass(frozen=True, slots=True)
class ExporterState:
    """The state of the exporter itself.

    Attributes:
        api: The API section of the config in use.
        reload: The result of the last attempt to load the config.
        batch_file_errors: Whether each batch file, by name, currently has an error.

    """

    api: ApiConfig
    reload: ReloadState
    batch_file_errors: Mapping[str, bool]
