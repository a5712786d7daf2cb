"""Which URLs of error logs may be used."""

import pytest

from sitecore_cdp_exporter.api.error_log_url import LogUrl

HOSTS = ("*.s3.amazonaws.com", "*.s3.*.amazonaws.com")
API = "https://api-engage-eu.sitecorecloud.io"
LOOPBACK = "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.s3.amazonaws.com/key/log.gz?X-Amz-Signature=5ecret",
        "https://bucket.s3.eu-west-1.amazonaws.com/key/log.gz?X-Amz-Signature=5ecret",
        "https://BUCKET.S3.eu-west-1.AMAZONAWS.com:443/log.gz",
        "https://bucket_of-2019.s3.amazonaws.com",
    ],
)
def test_storage_that_the_config_allows_may_be_asked(url: str) -> None:
    assert LogUrl(url).may_be_used(HOSTS, API)
    assert LogUrl(url).may_be_used(HOSTS, LOOPBACK)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "log.gz",
        "//bucket.s3.amazonaws.com/log.gz",
        "http://bucket.s3.amazonaws.com/log.gz",
        "ftp://bucket.s3.amazonaws.com/log.gz",
        "file:///etc/passwd",
        "https://bucket.s3.amazonaws.com:8443/log.gz",
        "https://bucket.s3.amazonaws.com:0/log.gz",
        "https://bucket.s3.amazonaws.com:https/log.gz",
        "https://evil.example/log.gz",
        "https://s3.amazonaws.com/bucket/log.gz",
        "https://bucket.s3.amazonaws.com.evil.example/log.gz",
        "https://evil.example/bucket.s3.amazonaws.com",
        "https://evil.example?bucket.s3.amazonaws.com",
        "https://evil.example#.s3.amazonaws.com",
        "https://evil.example\\.s3.amazonaws.com/log.gz",
        "https://bucket.s3.amazonaws.com@evil.example/log.gz",
        "https://evil.example@bucket.s3.amazonaws.com/log.gz",
        "https://key:secret@bucket.s3.amazonaws.com/log.gz",
        "https://@bucket.s3.amazonaws.com/log.gz",
        "https://a.b.s3.amazonaws.com/log.gz",
        "https://.s3.amazonaws.com/log.gz",
        "https://%65vil.s3.amazonaws.com/log.gz",
        "https://bucket.s3.amazonaws.com./log.gz",
        "https://b\N{CYRILLIC SMALL LETTER U}cket.s3.amazonaws.com/log.gz",
        "https://bucket.s3.amazonaws.com/log.gz\r\nHost: evil.example",
        " https://bucket.s3.amazonaws.com/log.gz",
        "https://bucket.s3.amazonaws.com/ log.gz",
        "https://[::1",
        "https://[fe80::1%25eth0]/log.gz",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/log.gz",
        "https://[::1]/log.gz",
        "https://localhost/log.gz",
        "http://127.0.0.1:8080/log.gz",
        "https://2130706433/log.gz",
        "https://192.0.2.7/log.gz",
        "https://[2001:db8::7]/log.gz",
    ],
)
def test_no_other_url_is_used(url: str) -> None:
    assert not LogUrl(url).may_be_used(HOSTS, API)


@pytest.mark.parametrize("url", ["http://127.0.0.1:7/log.gz", "https://localhost:8443/log.gz", "http://[::1]/log.gz"])
def test_a_log_is_on_this_machine_only_if_the_api_is(url: str) -> None:
    for base_url in (LOOPBACK, "https://localhost", "http://[::1]:8080"):
        assert LogUrl(url).may_be_used(HOSTS, base_url)
    assert not LogUrl(url).may_be_used(("localhost.example",), API)


@pytest.mark.parametrize(
    "url",
    ["http://key@127.0.0.1/log.gz", "ftp://127.0.0.1/log.gz", "http://169.254.169.254/log.gz", "http://10.0.0.1/"],
)
def test_a_local_api_does_not_allow_other_private_addresses(url: str) -> None:
    assert not LogUrl(url).may_be_used(HOSTS, LOOPBACK)


def test_a_url_is_shown_nowhere() -> None:
    assert "5ecret" not in f"{LogUrl('https://bucket.example/?sig=5ecret')!r} {LogUrl('https://b.example/5ecret')}"
