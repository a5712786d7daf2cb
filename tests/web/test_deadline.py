import pytest

from sitecore_cdp_exporter.web.deadline import seconds_to_collect


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 4.5),
        ("5.5", 5.0),
        ("1e1", 9.5),
        ("120", 119.5),
        ("120.5", 119.5),
        ("1e9", 119.5),
        # Half of a short timeout is kept back, so that there is time to ask the API.
        ("1", 0.5),
        ("0.5", 0.25),
        ("0.1", 0.05),
        *[(header, 9.5) for header in (None, "", "0", "-1", "nan", "-inf", "inf", "soon", "5s", "0x5", "ä")],
    ],
)
def test_the_timeout_leaves_time_for_the_way_back(header: str | None, seconds: float) -> None:
    assert seconds_to_collect(header, 0.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("last_encoding", "seconds"),
    [(0.1, 9.5), (2.0, 7.0), (100.0, 5.0)],
    ids=["quick", "slow", "never more than half"],
)
def test_a_slow_encoding_is_kept_back_too(last_encoding: float, seconds: float) -> None:
    assert seconds_to_collect("10", last_encoding) == pytest.approx(seconds)
