"""A config file for tests of the command."""

from pathlib import Path

import yaml

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
# Words that no log, page or metric may hold.
SECRET = "x5ecretx"
BROKEN_WEB_CONFIG = f"tls_server_config: {{cert_file: a}}\nbasic_auth_users:\n  a: {SECRET}\nmore: 1\n"


def write_config(directory: Path, **api: object) -> Path:
    """Write a valid config whose API nobody can reach. `api` is that section, as far as it differs."""
    path = directory / "config.yaml"
    labels = {"team": "c r m", "note": 'two\n"lines"'}
    document = {
        "api": {
            "base_url": "https://sitecore.invalid",
            "basic_auth": {"username": SECRET, "password": SECRET},
            **api,
        },
        "batches": [{"ref": REF, "feed": "nightly", "labels": labels}, OTHER_REF],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path
