"""The config file: what is taken, and what is refused. `test_mistakes.py` has the words."""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import zoneinfo
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from sitecore_cdp_exporter.config.calendar import Calendar
from sitecore_cdp_exporter.config.model import (
    MAX_FILE_BYTES,
    ApiConfig,
    BasicAuth,
    Config,
    ConfigError,
    Discovery,
    ErrorLogs,
    FeedConfig,
    Retention,
    TlsConfig,
    WatchedBatch,
    load_config,
)
from sitecore_cdp_exporter.config.names import REF_PREFIX
from sitecore_cdp_exporter.config.section import Section

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VALID = HERE / "valid"
REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
BASE_URL = "https://api-engage-eu.sitecorecloud.io"

BASE_URL_PATTERN = json.loads((ROOT / "config.schema.json").read_text())["$defs"]["ApiConfig"]["properties"][
    "base_url"
]["pattern"]

API = f"api:\n  base_url: {BASE_URL}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all tests that write nothing but `config.yaml`."""
    return tmp_path_factory.mktemp("config")


def load(text: str, folder: Path) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    return load_config(path)


def errors_of(text: str | bytes, folder: Path) -> tuple[str, ...]:
    """The errors of a file, without the path that each begins with."""
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert all(error.startswith(f"{path}:") for error in raised.value.errors)
    return tuple(error.removeprefix(f"{path}:") for error in raised.value.errors)


def test_a_minimal_file_has_the_defaults() -> None:
    assert load_config(VALID / "minimal.yaml") == Config(
        api=ApiConfig(
            base_url=BASE_URL,
            basic_auth=BasicAuth(username=None, username_file=None, password=None, password_file=None),
            endpoint="batches",
            timeout=5.0,
            concurrency=16,
            tls_config=TlsConfig(ca_file=None, cert_file=None, key_file=None, insecure_skip_verify=False),
            proxy_url=None,
            proxy_from_environment=False,
        ),
        batches=(),
        batch_files=(),
        retention=Retention(succeeded=86_400.0, failed=604_800.0),
        recheck_finished=86_400.0,
        discovery=Discovery(enabled=False, max_batches=500),
        feeds=(),
        error_logs=ErrorLogs(enabled=True, hosts=("*.s3.amazonaws.com", "*.s3.*.amazonaws.com")),
    )


def test_every_key_can_be_set() -> None:
    assert load_config(VALID / "every-key.yaml") == Config(
        api=ApiConfig(
            base_url="https://gateway.example:8443/sitecore",
            basic_auth=BasicAuth(username=SecretStr("*key #1"), password=SecretStr("&token")),
            endpoint="inspect",
            timeout=90.5,
            concurrency=256,
            tls_config=TlsConfig(
                ca_file=VALID / "ca.pem",
                cert_file=Path("/etc/tls/client.pem"),
                key_file=VALID / "../client.key",
                insecure_skip_verify=True,
            ),
            proxy_url=SecretStr("http://key:hunter2@proxy.example:3128"),
        ),
        batches=(
            WatchedBatch(ref=REF),
            WatchedBatch(
                ref=OTHER_REF.upper(),
                feed="nightly guests, größe L",
                labels={"team": "crm", "_tier1": "", "note": "7", "released": "2024-01-01"},
            ),
        ),
        batch_files=(
            str(VALID / "batches.d/*.yaml"),
            str(VALID / "../tonight?.json"),
            "/var/lib/uploads/batches.yaml",
        ),
        retention=Retention(succeeded=0.0, failed=30 * 86_400.0),
        recheck_finished=0.0,
        discovery=Discovery(enabled=True, max_batches=10_000),
        feeds=(
            FeedConfig(
                name="nightly guests, größe L",
                labels={"team": "data", "tier": "gold"},
                expect_success_every=86_400.0,
                grace=10_800.0,
                max_failed_ratio=0.05,
                min_records=1000,
                next_success_resolves=True,
                ref_prefix="5a0c2f0e-6d0b",
            ),
            FeedConfig(
                name="orders",
                expect_success_by=Calendar.model_validate(
                    {
                        "time": dt.time(23, 30),
                        "days": ("mon", "tue", "wed", "thu", "fri"),
                        "timezone": ZoneInfo("Europe/Berlin"),
                        "window": 21_600.0,
                        "except": (dt.date(2026, 12, 25), dt.date(2027, 1, 1)),
                    }
                ),
                grace=1800.0,
                max_failed_ratio=1.0,
                ref_prefix="5a0c2f0f",
            ),
        ),
        error_logs=ErrorLogs(enabled=False, hosts=("*.storage.example", "logs.example.com")),
    )


def test_a_feed_expects_nothing_by_default(folder: Path) -> None:
    config = load(f"{API}feeds:\n  - name: guests\n", folder)
    assert config.feeds == (
        FeedConfig(
            name="guests",
            labels={},
            expect_success_every=None,
            expect_success_by=None,
            grace=0.0,
            max_failed_ratio=0.0,
            min_records=0,
            next_success_resolves=False,
            ref_prefix=None,
        ),
    )
    assert type(config.feeds[0].max_failed_ratio) is float


def test_a_feed_is_found_by_its_name_and_a_batch_may_have_one_that_is_not_declared(tmp_path: Path) -> None:
    feeds = "feeds: [{name: guests, labels: {team: crm}}, {name: orders}]\n"
    config = load(f"{API}{feeds}batches: [{{ref: {REF}, feed: ad-hoc}}]\n", tmp_path)
    assert config.feeds_by_name == {"guests": config.feeds[0], "orders": config.feeds[1]}
    assert config.batches[0].feed not in config.feeds_by_name
    # What was looked up is no difference between two configs.
    assert config == load_config(tmp_path / "config.yaml")


def test_globs_are_absolute_and_the_folder_of_the_config_file_is_taken_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"{API}batch_files: [b/*.yaml, '/etc/[ab].yaml']\n")
    monkeypatch.chdir(folder)
    assert load_config(Path("config.yaml")).batch_files == (f"{tmp_path}/a[[]1][*]/b/*.yaml", "/etc/[ab].yaml")


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("5a0c2f0e", "5a0c2f0e"),
        ("5A0C2F0E", "5a0c2f0e"),
        ("5a0c2f0e-", "5a0c2f0e"),
        ("5a0c2f0e6", "5a0c2f0e-6"),
        ("5a0c2f0e6d0b", "5a0c2f0e-6d0b"),
        ("5a0c2f0e-6d0b", "5a0c2f0e-6d0b"),
        ("5a0c2f0e-6d0b4c51", "5a0c2f0e-6d0b-4c51"),
        ("5a0c2f0e6d0b4c519d3c0", "5a0c2f0e-6d0b-4c51-9d3c-0"),
        ("5a0c2f0e6d0b4c519d3c0f6c2b1f8a11", "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"),
        ("5A0C2F0E-6D0B-4C51-9D3C-0F6C2B1F8A11", "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"),
    ],
)
def test_a_ref_prefix_gets_the_form_of_a_uuid(text: str, prefix: str) -> None:
    assert FeedConfig(name="guests", ref_prefix=text).ref_prefix == prefix


@pytest.mark.parametrize(
    "text",
    [
        *("", "5a0c2f0", "5a0c2f0e--", "5a0c2f0e-6d0b--4", "5a0c2f0e6-d0b", "-5a0c2f0e", "5a0c2f0e\n", "5a0c2f0g"),
        *("5a0c2f0e6d0b4c519d3c0f6c2b1f8a112", "5a0c2f0e-6d0b-4c51-9d3c-0f6c-2b1f8a11", "\u0665a0c2f0e"),
    ],
)
def test_a_ref_prefix_is_the_start_of_a_uuid(text: str) -> None:
    with pytest.raises(ValidationError, match="8 hex digits"):
        FeedConfig(name="guests", ref_prefix=text)


@given(uuids=st.lists(st.uuids(), min_size=1, max_size=4, unique_by=lambda uuid: uuid.hex[:8]), data=st.data())
def test_every_beginning_of_a_uuid_is_a_ref_prefix_that_it_begins_with(uuids: list[UUID], data: st.DataObject) -> None:
    for uuid in uuids:
        written = data.draw(st.sampled_from([str(uuid), uuid.hex, str(uuid).upper()]))
        cut = written[: data.draw(st.integers(8, len(written)))]
        prefix = FeedConfig(name="guests", ref_prefix=cut).ref_prefix
        assert prefix is not None
        assert [other for other in uuids if str(other).startswith(prefix)] == [uuid]
        assert re.fullmatch(REF_PREFIX, cut)


def test_secrets_may_be_files_that_do_not_exist_yet() -> None:
    api = load_config(VALID / "files-and-environment.yaml").api
    assert api.basic_auth.username_file == VALID / "secrets/key"
    assert api.basic_auth.password_file == Path("/run/secrets/sitecore_cdp_api_token")
    assert api.proxy_from_environment


def test_a_key_without_a_value_counts_as_left_out() -> None:
    assert load_config(VALID / "keys-without-values.yaml") == load_config(VALID / "minimal.yaml")


def test_anchors_aliases_and_merge_keys_work() -> None:
    first, second, third, fourth = load_config(VALID / "anchors.yaml").batches
    assert (first.feed, first.labels) == ("nightly-guests", {"team": "crm"})
    assert (second.ref, second.feed, second.labels) == (OTHER_REF, "nightly-guests", {"team": "crm"})
    assert third.labels == {"team": "web", "tier": "silver"}
    assert fourth.labels == first.labels


def test_an_error_in_merged_keys_points_to_where_they_stand(folder: Path) -> None:
    text = API + f"batches:\n  - &a\n    ref: {REF}\n    feed: 7\n  - <<: *a\n    ref: {OTHER_REF}\n"
    assert errors_of(text, folder) == (
        "6: batches[0].feed: expected a string; put it in quotes",
        "6: batches[1].feed: expected a string; put it in quotes",
    )


def test_a_duplicate_by_alias_is_reported_at_the_alias(folder: Path) -> None:
    assert errors_of(API + f"batches:\n  - &a {REF}\n  - *a\n", folder) == (
        "5: batches[1]: duplicate ref; already on line 4",
    )


@pytest.mark.parametrize("name", ["json", "loopback"])
def test_other_good_files_load(name: str) -> None:
    load_config(VALID / f"{name}.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("'0'", 0.0),
        ("0s", 0.0),
        ("0ms", 0.0),
        ("500ms", 0.5),
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("90s", 90.0),
        ("1h1ms", 3600.001),
        ("24h", 86_400.0),
        ("1d", 86_400.0),
        ("2w", 1_209_600.0),
        ("1y", 31_536_000.0),
        ("1y2w3d4h5m6s7ms", 31_536_000 + 1_209_600 + 259_200 + 14_400 + 300 + 6.007),
        ("007s", 7.0),
        ("292y", 292 * 31_536_000.0),
    ],
)
def test_a_duration_is_read_as_prometheus_does(text: str, seconds: float, folder: Path) -> None:
    assert load(f"{API}recheck_finished: {text}\n", folder).recheck_finished == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("5", "0.0", "1e3", "''", "' 5s'", "5 s", "5S", "+5s", "5µs", "5us", "1m1m", "1s1m", "1.5h", "s", "5s ago"),
        *("true", "[5s]", "{s: 5}", f"{'9' * 5000}s", "2024-01-01", ".inf", ".nan", '"5s\\n"', "\u0665s"),
    ],
)
def test_what_prometheus_does_not_accept_is_not_a_duration(text: str, folder: Path) -> None:
    (error,) = errors_of(f"{API}recheck_finished: {text}\n", folder)
    assert error.startswith("3: recheck_finished: ")
    assert "duration" in error or "needs a unit" in error


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        *[(text, "without the zero") for text in ("0100", "-0100", "+01", "00", "0177777777777777777")],
        *[(text, "in decimal") for text in ("0x64", "-0xff", "0b1100", "+0b1", "0x" + "f" * 5000)],
        *[(text, "without _") for text in ("1_000", "0_1", "0x_1", "1_0.5", "0b_")],
        *[(text, "write a duration as 1m30s") for text in ("1:30", "-1:30", "1:30:00", "1:30.5")],
    ],
)
@pytest.mark.parametrize(
    ("before", "key"),
    [
        ("feeds:\n  - name: guests\n    min_records: ", "feeds[0].min_records"),
        ("feeds:\n  - name: guests\n    max_failed_ratio: ", "feeds[0].max_failed_ratio"),
        ("feeds:\n  - labels: {}\n    name: ", "feeds[0].name"),
        ("  basic_auth:\n    password: ", "api.basic_auth.password"),
        ("  endpoint: batches\n  concurrency: ", "api.concurrency"),
    ],
)
def test_a_number_that_yaml_reads_in_another_way_than_people_is_refused(
    before: str, key: str, text: str, remedy: str, folder: Path
) -> None:
    (error,) = errors_of(f"{API}{before}{text}\n", folder)
    line = 2 + before.count("\n") + 1
    assert re.fullmatch(rf"{line}: {re.escape(key)}: .*{remedy}.*; put it in quotes if it is text", error)


@pytest.mark.parametrize("text", ["'0100'", '"1:30"', "'0x64'", "1_0a", "0o17", "1.2.3", "12345e67", "1e3", "08"])
def test_text_that_looks_like_a_number_stays_text(text: str, folder: Path) -> None:
    config = load(f"{API}feeds: [{{name: {text}}}]\n", folder)
    assert config.feeds[0].name == text.strip("'\"")
    assert type(config.feeds[0].name) is str


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        *[(text, 0.05) for text in ("5e-2", "5E-02", "+5e-2", ".5e-1", "0.5e-1", "50.0e-3")],
        *[("1e0", 1.0), ("1.", 1.0), (".5", 0.5), ("0e5", 0.0), ("1e-400", 0.0)],
    ],
)
def test_a_ratio_is_read_as_yaml_1_2_and_json_read_it(text: str, ratio: float, folder: Path) -> None:
    config = load(f"{API}feeds: [{{name: guests, max_failed_ratio: {text}}}]\n", folder)
    assert config.feeds[0].max_failed_ratio == ratio


@pytest.mark.parametrize("text", ["'5e-2'", "5e", "e-2", "5e-2%", "1e400", "5e-2x", "-5e-2", "0b1e-2"])
def test_what_is_not_a_ratio_is_refused(text: str, folder: Path) -> None:
    (error,) = errors_of(f"{API}feeds: [{{name: guests, max_failed_ratio: {text}}}]\n", folder)
    assert error.startswith("3: feeds[0].max_failed_ratio: expected a number")


HUGE = ["9" * 20, "9" * 309, "1" + "0" * 400, "9" * 4000, "9" * 5000, "-" + "9" * 309, f"{'9' * 309}.0", ".inf", ".nan"]


@pytest.mark.parametrize("number", HUGE, ids=lambda number: f"{number[:4]}({len(number)})")
@pytest.mark.parametrize(
    "config",
    [
        "  concurrency: {}\n",
        "  timeout: {}s\n",
        "  timeout: {}\n",
        "recheck_finished: {}y\n",
        "recheck_finished: {}ms\n",
        "retention: {{failed: {}d}}\n",
        "retention: {{succeeded: {}}}\n",
        "discovery: {{max_batches: {}}}\n",
        "feeds: [{{name: guests, min_records: {}}}]\n",
        "feeds: [{{name: guests, max_failed_ratio: {}}}]\n",
        "feeds: [{{name: guests, expect_success_every: {}y}}]\n",
        "feeds: [{{name: guests, expect_success_every: 1h, grace: {}w}}]\n",
    ],
)
def test_a_number_that_no_metric_can_hold_is_refused(config: str, number: str, folder: Path) -> None:
    (error,) = errors_of(API + config.format(number), folder)
    assert re.search("expected|a number with too many digits|needs a unit", error)


def test_the_largest_numbers_become_metrics(folder: Path) -> None:
    feed = "{name: guests, min_records: 1000000000, expect_success_every: 292y, grace: 292y, max_failed_ratio: 1}"
    (config,) = load(f"{API}feeds: [{feed}]\n", folder).feeds
    assert config.expect_success_every == config.grace == 292 * 31_536_000
    assert float(config.min_records) == config.min_records == 1e9


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2//", "/V2", "/v2/batches", "/v2/batches/", "/v2/batches/inspect"])
@pytest.mark.parametrize("prefix", ["https://api.boxever.com", "https://gateway.example:8443/cdp", "http://[::1]:8080"])
def test_a_base_url_that_ends_in_v2_or_below_is_refused(prefix: str, path: str, folder: Path) -> None:
    (error,) = errors_of(f"api:\n  base_url: {prefix}{path}\n", folder)
    assert error.startswith("2: api.base_url: must end before /v2, because the exporter adds /v2/batches; remove /v2")
    assert not re.match(BASE_URL_PATTERN, prefix + path)


def test_nothing_but_slashes_is_cut_off_the_end_of_a_base_url(folder: Path) -> None:
    assert load("api:\n  base_url: https://api.example/X//\n", folder).api.base_url == "https://api.example/X"


@pytest.mark.parametrize(
    "url", ["https://v2", "https://v2.example/v20", "https://gateway.example/cdp-v2", "https://v2/"]
)
def test_a_base_url_with_v2_in_another_name_is_taken(url: str, folder: Path) -> None:
    assert load(f"api:\n  base_url: {url}\n", folder).api.base_url == url.rstrip("/")
    assert re.match(BASE_URL_PATTERN, url)


@pytest.mark.parametrize("timeout", ["1ms", "2m", "120s", "1m60s"])
def test_a_timeout_within_its_bounds_is_accepted(timeout: str, folder: Path) -> None:
    assert 0 < load(f"{API}  timeout: {timeout}\n", folder).api.timeout <= 120


def test_an_interval_may_be_as_short_as_a_drill_needs(folder: Path) -> None:
    config = load(f"{API}feeds: [{{name: guests, expect_success_every: 1ms}}]\n", folder)
    assert config.feeds[0].expect_success_every == 0.001


def test_a_calendar_is_every_day_in_utc_by_default(folder: Path) -> None:
    config = load(f"{API}feeds: [{{name: guests, expect_success_by: {{time: '00:05', except: }}}}]\n", folder)
    assert config.feeds[0].expect_success_by == Calendar.model_validate(
        {
            "time": "00:05",
            "days": ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
            "timezone": "UTC",
            "window": None,
            "except": (),
        }
    )


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+12", "America/Argentina/Buenos_Aires", "GMT0", "Asia/Kolkata"])
def test_the_names_of_the_database_of_time_zones_are_taken(zone: str, folder: Path) -> None:
    config = load(f"{API}feeds: [{{name: guests, expect_success_by: {{time: 08:00, timezone: {zone}}}}}]\n", folder)
    calendar = config.feeds[0].expect_success_by
    assert calendar is not None
    assert calendar.timezone.key == zone


def test_time_zones_are_known_where_the_system_has_none() -> None:
    # It may be in the cache of this process. Other tests do not use it.
    zone = "Antarctica/Troll"
    ZoneInfo.clear_cache(only_keys=[zone])
    zoneinfo.reset_tzpath([])
    try:
        calendar = Calendar.model_validate({"time": "23:30", "timezone": zone})
    finally:
        zoneinfo.reset_tzpath()
    assert calendar.timezone.key == zone


def test_code_may_pass_durations_in_seconds() -> None:
    assert ApiConfig(base_url=BASE_URL, timeout=0.25).timeout == 0.25
    with pytest.raises(ValidationError):
        ApiConfig(base_url=BASE_URL, timeout=121.0)


@pytest.mark.parametrize(
    ("text", "base_url"),
    [
        ("https://api.boxever.com", "https://api.boxever.com"),
        ("https://api.boxever.com/", "https://api.boxever.com"),
        ("HTTPS://api.boxever.com//", "HTTPS://api.boxever.com"),
        ("https://gateway.example:8443/cdp/", "https://gateway.example:8443/cdp"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("http://localhost", "http://localhost"),
        ("http://LOCALHOST:8080", "http://LOCALHOST:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_base_url_loses_only_its_trailing_slashes(text: str, base_url: str, folder: Path) -> None:
    assert load(f"api: {{base_url: '{text}'}}\n", folder).api.base_url == base_url


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "https://",
        "https://:443",
        "https:api.boxever.com",
        "//api.boxever.com",
        "ftp://api.boxever.com",
        "file:///etc/passwd",
        "https://api.boxever.com:0",
        "https://api.boxever.com:65536",
        "https://api.boxever.com:-1",
        "https://[::1",
        "https://api.boxever.com\\\\evil.example",
        "https://api.boxever.com/a b",
        "https://api.boxever.com/\\n",
        " https://api.boxever.com",
        "https://api.boxever.com?",
        "https://api.boxever.com#",
        "https://@api.boxever.com",
        "http://api.boxever.com",
        "http://128.0.0.1",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://127.0.0.1.example.com",
        "http://localhost.",
        "http://[::2]",
        "http://2130706433",
    ],
)
def test_another_base_url_is_refused(base_url: str, folder: Path) -> None:
    (error,) = errors_of(f'api:\n  base_url: "{base_url}"\n', folder)
    assert error.startswith("2: api.base_url: ")


@pytest.mark.parametrize("name", ["team", "T", "_", "a1", "_1", "team_", "refs", "x__"])
def test_a_label_name_of_prometheus_is_accepted(name: str, folder: Path) -> None:
    (batch,) = load(f"{API}batches:\n  - {{ref: {REF}, labels: {{{name}: x}}}}\n", folder).batches
    assert batch.labels == {name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        *("ref", "feed", "status", "reason", "cause", "kind", "of", "result", "field", "job", "instance", "le"),
        *("alertname", "alertstate", "severity", "why"),
        *("__", "__name__", "__x", "1a", "a-b", "a.b", "é", "''", "' a'", '"a\\n"', "$", "\u0663"),
    ],
)
def test_a_reserved_or_malformed_label_name_is_refused(name: str, folder: Path) -> None:
    (error,) = errors_of(f"{API}batches:\n  - ref: {REF}\n    labels: {{{name}: x}}\n", folder)
    assert error.startswith("5: batches[0].labels.")
    assert "label name" in error
    assert error.isprintable()


@pytest.mark.parametrize("value", [7, None, True, b"crm"])
def test_a_label_value_is_a_string(value: object) -> None:
    with pytest.raises(ValidationError, match="valid string"):
        WatchedBatch.model_validate({"ref": REF, "labels": {"team": value}})


@pytest.mark.parametrize("feed", ["lone \ud800 surrogate", "two\nlines", "\x7f", "\x85"])
def test_a_feed_that_a_dashboard_cannot_show_is_refused(feed: str) -> None:
    with pytest.raises(ValidationError, match="no control characters"):
        WatchedBatch.model_validate({"ref": REF, "feed": feed})


@pytest.mark.parametrize("key", ["username", "password"])
@pytest.mark.parametrize("secret", ["lone \ud800 surrogate", "two\nlines", "nul\0"])
def test_a_credential_that_basic_authentication_cannot_carry_is_refused(key: str, secret: str) -> None:
    with pytest.raises(ValidationError, match="control character"):
        BasicAuth.model_validate({key: secret})


def test_an_escaped_surrogate_in_a_file_is_refused_by_the_parser(folder: Path) -> None:
    (error,) = errors_of(f'{API}batches:\n  - ref: {REF}\n    labels: {{team: "\\ud800"}}\n', folder)
    assert error.startswith("5:23: not valid YAML: found invalid Unicode character escape code")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "1: no settings; at least api.base_url is needed"),
        (b"# a comment only\n", "1: no settings"),
        (b"---\n", "2: no settings"),
        (b"null\n", "1: no settings"),
        (b"\n\n- 1\n", "3: expected a mapping"),
        ("api:\n".encode("utf-16"), "1: not UTF-8"),
        (b"api:\n  base_url: \xe9\n", "2: not UTF-8"),
        (b"api:\n  base_url: a\0b\n", "2:14: character U+0000 is not allowed in YAML"),
        (b"api:\n\x1b[31m\n", "2:1: character U+001B is not allowed in YAML"),
        (b"*a\n", "1: an alias without an anchor above it; quote a value that begins with *"),
        (b"!!python/object/apply:os.abort []\n", "1: YAML tags are not supported; quote a value that begins with !"),
        (b"%YAML 3.0\n---\n", "1:1: not valid YAML: found incompatible YAML document"),
        (b"[" * 100_000, "1:34: not valid YAML: nested too deeply"),
        (b"{" * 100_000, "1:34: not valid YAML: nested too deeply"),
        (b"? " * 100_000, "1:67: not valid YAML: nested too deeply"),
        (b"- " * 100_000, "1:67: not valid YAML: nested too deeply"),
        (b"a: &a [*a]\n", "1: a: unknown key"),
    ],
)
def test_a_file_that_is_not_a_config_at_all_gives_one_line(content: bytes, error: str, folder: Path) -> None:
    assert errors_of(content, folder)[-1].startswith(error)


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(folder: Path) -> None:
    assert load("\ufeff" + API.replace("\n", "\r\n"), folder).api.base_url == BASE_URL


def test_a_path_that_cannot_be_read_gives_one_line(tmp_path: Path) -> None:
    for path, reason in {
        tmp_path / "none.yaml": "No such file or directory",
        tmp_path: "Is a directory",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "a\nb": "No such file or directory",
    }.items():
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        shown = str(path).replace("\n", r"\n")
        assert raised.value.errors == (f"{shown}: cannot be read: {reason}",)


def test_a_large_or_special_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for path, problem in {pipe: "not a file", large: "larger than 10,485,760 bytes"}.items():
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        assert raised.value.errors == (f"{path}: {problem}",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_gives_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.touch(mode=0o000)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(path)


def test_a_strange_file_name_stays_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b.yaml"
    path.write_text("x: 1\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert all(error.startswith(f"{tmp_path}/a\\nb\\x1b.yaml:1: ") for error in raised.value.errors)


def test_aliases_that_multiply_cost_nothing(folder: Path) -> None:
    lists = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 30))
    merges = "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
    errors = errors_of(f"{API}l0: &l0 [x]\n{lists}m0: &m0 {{x: y}}\n{merges}batches: *l29\n", folder)
    assert len(errors) == 30 + 30 + 9


def test_ten_thousand_batches_load(folder: Path) -> None:
    batches = "".join(
        f"  - ref: 3ee694e5-0b77-2d1e-af19-{number:012x}\n    feed: guests\n    labels: {{team: crm}}\n"
        for number in range(10_000)
    )
    config = load(f"{API}batches:\n{batches}", folder)
    assert len({batch.ref for batch in config.batches}) == 10_000


def test_models_are_frozen(folder: Path) -> None:
    config: Any = load(API, folder)
    with pytest.raises(ValidationError, match="frozen"):
        config.api.concurrency = 1


def test_the_repr_of_a_config_shows_no_secret() -> None:
    config = load_config(VALID / "every-key.yaml")
    assert not re.search("hunter2|&token|#1", repr(config) + str(config) + repr(config.model_dump()))


def test_the_models_refuse_a_bad_value_from_code_without_showing_it() -> None:
    url = "ftp://key:hunter2@api.boxever.com"
    with pytest.raises(ValidationError, match="2 validation errors") as raised:
        ApiConfig(base_url=url, proxy_url=SecretStr(url))
    assert "hunter2" not in str(raised.value)


def test_the_schema_in_the_repository_is_that_of_the_models() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "sitecore_cdp_exporter.config.model"], capture_output=True, check=True
    )
    assert (ROOT / "config.schema.json").read_bytes() == printed.stdout, "run `make schema`"


SECTIONS: dict[str, type[Section]] = {
    "": Config,
    "ApiConfig": ApiConfig,
    "BasicAuth": BasicAuth,
    "TlsConfig": TlsConfig,
    "WatchedBatch": WatchedBatch,
    "Retention": Retention,
    "Discovery": Discovery,
    "FeedConfig": FeedConfig,
    "Calendar": Calendar,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_schema_describes_every_key_and_refuses_others(section: str) -> None:
    schema = json.loads((ROOT / "config.schema.json").read_text())
    described = schema["$defs"][section] if section else schema
    assert described["additionalProperties"] is False
    assert set(described["properties"]) == set(SECTIONS[section].keys())
    for key in described["properties"].values():
        resolved = schema["$defs"][key["$ref"].rpartition("/")[2]] if "$ref" in key else key
        assert resolved["description"].endswith((".", "!"))
