"""What a config names that is not there, or cannot be read. It may appear before it is needed, so it is a warning."""

import os
from collections.abc import Iterator

from sitecore_cdp_exporter.api.credentials import credential_problems
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.watch.batch_files import find_missing


def find_missing_inputs(config: Config) -> Iterator[str]:
    """Yield a sentence for each batch file that does not exist, and for each credential that cannot be read now."""
    for path in find_missing(config.batch_files):
        yield f"batch_files: {path}: No such file or directory"
    for problem in credential_problems(config.api.basic_auth, os.environ):
        yield f"credentials cannot be read now: {problem}"
