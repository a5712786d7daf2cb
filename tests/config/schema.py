"""The JSON Schema of the config file, by section."""

import json
from pathlib import Path

SCHEMA = json.loads((Path(__file__).parents[2] / "config.schema.json").read_text(encoding="utf-8"))
# By the prefix of their keys, as docs/configuration.md writes it.
SECTIONS = {
    "": SCHEMA,
    "api.": SCHEMA["$defs"]["ApiConfig"],
    "api.basic_auth.": SCHEMA["$defs"]["BasicAuth"],
    "api.tls_config.": SCHEMA["$defs"]["TlsConfig"],
    "batches[].": SCHEMA["$defs"]["WatchedBatch"],
    "retention.": SCHEMA["$defs"]["Retention"],
    "discovery.": SCHEMA["$defs"]["Discovery"],
    "feeds[].": SCHEMA["$defs"]["FeedConfig"],
    "feeds[].expect_success_by.": SCHEMA["$defs"]["Calendar"],
    "error_logs.": SCHEMA["$defs"]["ErrorLogs"],
}
