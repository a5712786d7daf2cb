"""What the soak compares: that a state which is not stored is found, and that only what excuses it does."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.soak.comparison import Comparison, Life, Scrape, Span, Stored, Verdict

REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
OTHER = "12af3453-62da-4b31-b646-631b7b5f3009"
TOTAL = "sitecore_cdp_batch_total_records"
FINISHED = ("success", "error", "corrupted")
# A scrape each second for a minute, that takes a tenth of one.
SCRAPES = tuple(Scrape(moment, moment, moment + 0.1) for moment in map(float, range(60)))
# Each shares a poll that began half a second before.
SHARING = tuple(Scrape(scrape.began - 0.5, scrape.began, scrape.ended) for scrape in SCRAPES)


def comparison(
    *moments: float,
    status: str = "processing",
    faults: Sequence[Span] = (),
    scrapes: Sequence[Scrape] = SCRAPES,
    total: float | None = None,
) -> Comparison:
    """Compare with a Prometheus that has stored the status at these moments."""
    counts = {} if total is None else {(REF, TOTAL): total}
    return Comparison(Stored({(REF, status): moments}, counts, scrapes), faults, interval=1.0)


@pytest.mark.parametrize(
    ("scrapes", "moments", "verdict"),
    [
        pytest.param(SCRAPES, (), Verdict.MISSING, id="no sample"),
        pytest.param(SCRAPES, (12.0,), Verdict.STORED, id="one sample within"),
        pytest.param(SCRAPES, (11.0, 12.0, 13.0, 14.0), Verdict.STORED, id="all samples"),
        pytest.param(SCRAPES, (10.0,), Verdict.STORED, id="its scrape began before, and read it when it was there"),
        pytest.param(SCRAPES, (9.0,), Verdict.MISSING, id="only before"),
        pytest.param(SCRAPES, (15.0,), Verdict.MISSING, id="only after"),
        pytest.param(SHARING, (15.0,), Verdict.MISSING, id="only after, by a shared poll that began after, too"),
        pytest.param(SHARING, (14.0,), Verdict.STORED, id="by a shared poll that had read it"),
        pytest.param(SCRAPES, (1.0, 2.0, 20.0, 30.0), Verdict.MISSING, id="before and after"),
        pytest.param(SCRAPES, (12.5,), Verdict.MISSING, id="a sample of no scrape"),
    ],
)
def test_a_life_is_stored_by_a_sample_of_its_time(
    scrapes: Sequence[Scrape], moments: tuple[float, ...], verdict: Verdict
) -> None:
    assert comparison(*moments, scrapes=scrapes).judge(Life(REF, "processing", 10.05, 14.2)) is verdict


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(Life(REF, "uploading", 10.0, 14.0), id="another status of the batch"),
        pytest.param(Life(OTHER, "processing", 10.0, 14.0), id="the same status of another batch"),
    ],
)
def test_the_sample_of_another_does_not_count(stored: Life) -> None:
    assert comparison(12.0).judge(stored) is Verdict.MISSING


@pytest.mark.parametrize(
    ("scrapes", "since", "until", "verdict"),
    [
        pytest.param(SCRAPES, 10.0, 11.0, Verdict.SHORT, id="as long as the interval"),
        pytest.param(SCRAPES, 10.05, 11.08, Verdict.BETWEEN_SCRAPES, id="the only scrape ends after it"),
        pytest.param(SCRAPES, 10.05, 11.11, Verdict.MISSING, id="a scrape just fits"),
        pytest.param(SHARING, 10.6, 11.7, Verdict.BETWEEN_SCRAPES, id="the only scrape may show an earlier state"),
        pytest.param(SHARING, 10.5, 11.6, Verdict.MISSING, id="a scrape and its poll just fit"),
        pytest.param(SHARING, 10.6, 12.2, Verdict.MISSING, id="the second scrape and its poll fit"),
        pytest.param(SCRAPES, 10.5, 59.0, Verdict.MISSING, id="many scrapes fit"),
        pytest.param(SCRAPES, 70.0, 90.0, Verdict.BETWEEN_SCRAPES, id="nobody scraped any more"),
    ],
)
def test_a_life_without_a_scrape_is_recognized(
    scrapes: Sequence[Scrape], since: float, until: float, verdict: Verdict
) -> None:
    assert comparison(scrapes=scrapes).judge(Life(REF, "processing", since, until)) is verdict


@pytest.mark.parametrize(
    ("faults", "verdict"),
    [
        pytest.param([Span(9.0, 15.0)], Verdict.IN_A_FAULT, id="during all of it"),
        pytest.param([Span(9.0, 12.0), Span(12.5, 15.0)], Verdict.IN_A_FAULT, id="two that leave no scrape between"),
        pytest.param([Span(9.0, 11.9), Span(12.2, 15.0)], Verdict.MISSING, id="two that leave one scrape between"),
        pytest.param([Span(9.0, 13.5)], Verdict.IN_A_FAULT, id="until the last scrape"),
        pytest.param([Span(9.0, 12.5)], Verdict.MISSING, id="until before the last scrape"),
        pytest.param([Span(11.05, 15.0)], Verdict.IN_A_FAULT, id="it began during the only scrape"),
        pytest.param([Span(0.0, 5.0), Span(20.0, 30.0)], Verdict.MISSING, id="long before and long after"),
    ],
)
def test_a_fault_excuses_what_no_other_scrape_could_see(faults: list[Span], verdict: Verdict) -> None:
    life = Life(REF, "processing", 10.5, 13.9)
    assert comparison(faults=faults).judge(life) is verdict
    assert comparison(12.0, faults=faults).judge(life) is Verdict.STORED, "what is stored needs no excuse"


LATE = tuple(Scrape(scrape.oldest, scrape.began, scrape.ended, is_late=True) for scrape in SCRAPES)


@pytest.mark.parametrize(
    ("scrapes", "verdict"),
    [
        pytest.param(LATE, Verdict.LATE, id="all"),
        pytest.param([*LATE[:12], SCRAPES[12], *LATE[13:]], Verdict.MISSING, id="all but one within"),
        pytest.param([*SCRAPES[:11], *LATE[11:14], *SCRAPES[14:]], Verdict.LATE, id="all within"),
        pytest.param([*LATE[:11], *SCRAPES[11:14], *LATE[14:]], Verdict.MISSING, id="all but those within"),
    ],
)
def test_a_scrape_that_shows_that_it_is_late_is_recognized(scrapes: Sequence[Scrape], verdict: Verdict) -> None:
    assert comparison(scrapes=scrapes).judge(Life(REF, "processing", 10.5, 13.9)) is verdict
    fault = [Span(9.0, 15.0)]
    assert comparison(scrapes=scrapes, faults=fault).judge(Life(REF, "processing", 10.5, 13.9)) is Verdict.IN_A_FAULT


def test_each_verdict_is_counted_for_what_lasted_longer_than_the_interval() -> None:
    lives = [
        Life(REF, "processing", 10.0, 14.0),
        Life(REF, "uploading", 10.0, 14.0),
        Life(REF, "uploading", 20.0, 24.0),
        Life(REF, "uploading", 70.0, 72.0),
        Life(REF, "uploading", 30.0, 31.0),
        Life(REF, "processing", 10.0, 11.0),
    ]
    compared = comparison(11.0, faults=[Span(19.0, 25.0)])
    assert compared.count(lives) == {
        Verdict.STORED: 1,
        Verdict.MISSING: 1,
        Verdict.IN_A_FAULT: 1,
        Verdict.BETWEEN_SCRAPES: 1,
    }
    assert compared.missing(lives) == [lives[1]]


@pytest.mark.parametrize(
    ("stored", "expected", "wrong"),
    [
        pytest.param(7.0, 7, False, id="equal"),
        pytest.param(8.0, 7, True, id="another number"),
        pytest.param(None, 7, True, id="no sample"),
        pytest.param(0.0, None, True, id="a zero of its own making"),
        pytest.param(None, None, False, id="nothing said and nothing stored"),
    ],
)
def test_counts_are_those_of_the_api(stored: float | None, expected: float | None, wrong: bool) -> None:  # noqa: FBT001  A column of the table.
    wrong_counts = [(REF, TOTAL, expected, stored)] if wrong else []
    assert comparison(total=stored).wrong_counts({(REF, TOTAL): expected}) == wrong_counts


@pytest.mark.parametrize(
    ("status", "moment", "unfounded"),
    [
        pytest.param("processing", 12.0, False, id="while it was"),
        pytest.param("processing", 10.0, False, id="from a moment before, by a scrape that went on"),
        pytest.param("processing", 15.0, True, id="an old state that is wrong_counts again"),
        pytest.param("processing", 5.0, True, id="before it was"),
        pytest.param("success", 12.0, True, id="finished too early"),
        pytest.param("success", 55.0, False, id="remembered after the API has forgotten it"),
        pytest.param("unknown", 12.0, True, id="a status that it never had"),
        pytest.param("processing", 45.0, False, id="during a fault, of which nothing is said"),
    ],
)
def test_a_sample_needs_a_life(status: str, moment: float, unfounded: bool) -> None:  # noqa: FBT001  Likewise.
    lives = [Life(REF, "processing", 10.05, 14.0), Life(REF, "success", 14.0, 34.0)]
    compared = comparison(moment, status=status, faults=[Span(40.0, 50.0)])
    assert compared.unfounded(lives, FINISHED) == ([(REF, status, moment)] if unfounded else [])


def test_a_shared_poll_may_show_what_was_before() -> None:
    lives = [Life(REF, "processing", 10.0, 13.6)]
    assert comparison(14.0, scrapes=SHARING).unfounded(lives, FINISHED) == []
    assert comparison(15.0, scrapes=SHARING).unfounded(lives, FINISHED) == [(REF, "processing", 15.0)]


def test_a_batch_that_was_not_followed_is_not_compared() -> None:
    assert comparison(12.0).unfounded([Life(OTHER, "processing", 10.0, 14.0)], FINISHED) == []


@st.composite
def batches(draw: st.DrawFn) -> list[Life]:
    """Batches that go from state to state at any moment of a minute."""
    lives = []
    for number in range(draw(st.integers(1, 5))):
        moments = sorted(draw(st.lists(st.floats(0.0, 58.0), min_size=4, max_size=4, unique=True)))
        statuses = ("uploading", "processing", "success")
        lives += [
            Life(f"{number}", status, since, until)
            for status, since, until in zip(statuses, moments[:-1], moments[1:], strict=True)
        ]
    return lives


def faithful(lives: list[Life], scrapes: Sequence[Scrape]) -> Stored:
    """Store what a Prometheus stores if its exporter shows the current state at the end of each scrape."""
    statuses: dict[tuple[str, str], list[float]] = {}
    for scrape in scrapes:
        for life in lives:
            if life.since <= scrape.ended < life.until:
                statuses.setdefault((life.ref, life.status), []).append(scrape.began)
    return Stored(statuses, {}, scrapes)


@given(batches())
def test_a_faithful_exporter_misses_nothing_and_makes_up_nothing(lives: list[Life]) -> None:
    compared = Comparison(faithful(lives, SCRAPES), [], interval=1.0)
    assert compared.missing(lives) == []
    assert compared.unfounded(lives, FINISHED) == []
    assert set(compared.count(lives)) <= {Verdict.STORED, Verdict.BETWEEN_SCRAPES}


@given(batches(), st.data())
def test_every_sample_that_must_be_stored_is_missed_when_hidden(lives: list[Life], data: st.DataObject) -> None:
    stored = faithful(lives, SCRAPES)
    faithfully = Comparison(stored, [], interval=1.0)
    due = [life for life in lives if life.until - life.since > 1.0 and faithfully.must_be_stored(life)]
    # So much always holds a scrape.
    assert {life for life in lives if life.until - life.since > 1.11} <= set(due)
    if due:
        hidden = data.draw(st.sampled_from(due))
        statuses = {key: moments for key, moments in stored.statuses.items() if key != (hidden.ref, hidden.status)}
        compared = Comparison(Stored(statuses, {}, SCRAPES), [], interval=1.0)
        assert compared.missing(lives) == [hidden]


@given(batches(), st.floats(0.0, 60.0), st.floats(0.0, 20.0))
def test_a_fault_never_hides_a_life_that_holds_a_scrape_outside_of_it(
    lives: list[Life], began: float, seconds: float
) -> None:
    fault = Span(began, began + seconds)
    compared = Comparison(Stored({}, {}, SCRAPES), [fault], interval=1.0)
    outside = [
        life
        for life in lives
        if life.until - life.since > 1.0
        and any(
            life.since <= scrape.began
            and scrape.ended <= life.until
            and (scrape.ended < fault.began or fault.ended < scrape.began)
            for scrape in SCRAPES
        )
    ]
    assert compared.missing(lives) == outside
