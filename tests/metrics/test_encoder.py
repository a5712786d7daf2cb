"""What is encoded here has the bytes of prometheus_client, in each format that a client can ask for."""

import string
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.metrics import encoder as encoder_module
from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.encoder import Encoder, Exposition
from sitecore_cdp_exporter.metrics.families import batch_families, poll_families
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.open_failure import FailureKind, OpenFailure
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from tests.fake_api import ref

# A machine that is busy with something else proves nothing.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
SCHEMES = ("allow-utf-8", "underscores", "dots", "values")
ACCEPTED = (
    "",
    TEXT,
    OPENMETRICS,
    "application/openmetrics-text",
    "application/openmetrics-text;version=2.0.0",
    *(f"{OPENMETRICS};escaping={scheme}" for scheme in SCHEMES),
    *(f"text/plain;version=1.0.0;escaping={scheme}" for scheme in SCHEMES),
)

NUMBERS = st.none() | st.integers(0, 2**63 - 1)
# A reading never changes by the sign of a zero alone, which could not be seen.
SECONDS = st.none() | st.floats().filter(lambda value: value != 0) | st.sampled_from([1e-7, 614.867, 1745483580.77])
BATCHES = st.builds(
    Batch,
    ref=st.just(ref(0)),
    status=st.sampled_from(BatchStatus),
    error_log_available=st.none() | st.booleans(),
    total_records=NUMBERS,
    succeeded_records=NUMBERS,
    failed_records=NUMBERS,
    time_to_process_seconds=SECONDS,
    size_bytes=NUMBERS,
    created=SECONDS,
    modified=SECONDS,
    upload_expiry=SECONDS,
)
# Any UTF-8 text, with a preference for characters that need escaping.
TEXTS = st.text(st.sampled_from('"\\\n{}=,# é\u2028') | st.characters(exclude_categories=["Cs"]), max_size=20)
# They sort before and after `feed`, `ref`, `reason` and `status`, and between them.
LABEL_NAMES = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8).filter(str.isidentifier)
WATCHED = st.builds(
    Watched,
    ref=st.integers(0, 5).map(ref),
    feed=st.none() | TEXTS,
    labels=st.dictionaries(LABEL_NAMES | st.sampled_from(["a", "q", "s", "z", "Z", "_"]), TEXTS, max_size=3),
)
STATES = st.builds(
    BatchState,
    watched=WATCHED,
    reading=st.none() | st.builds(Reading, BATCHES, SECONDS.filter(lambda value: value is not None)),
    failure=st.none() | st.sampled_from(Reason),
    accepted=st.none() | st.booleans(),
    superseded=st.none() | st.booleans(),
    open_failure=st.none() | st.builds(OpenFailure, st.sampled_from(FailureKind), st.floats(0, 1)),
    tolerated_ratio=st.none() | st.floats(0, 1),
    cause=st.none() | st.sampled_from(FailureCause),
    error_log=st.none()
    | st.builds(ErrorLog, st.dictionaries(st.sampled_from(RecordCause), st.integers(1, 2**53)), st.booleans()),
    error_log_failure=st.none() | st.sampled_from(LogReason),
    error_log_awaited=st.booleans(),
)
SUCCEEDED = Batch(
    ref=ref(0),
    status=BatchStatus.SUCCESS,
    error_log_available=False,
    total_records=121776,
    time_to_process_seconds=614.867,
    created=1745483580.77,
)


def finished(number: int) -> BatchState:
    return BatchState(watched=Watched(ref(number)), reading=Reading(SUCCEEDED, 1.75e9 + number / 7), accepted=True)


def snapshot(states: Iterable[BatchState]) -> Snapshot:
    return Snapshot(batches=tuple(states), api_up=True, api_last_success=1.75e9, poll_duration=0.25)


def numbered(states: Iterable[BatchState]) -> Snapshot:
    """Make a snapshot of states of different batches."""
    return snapshot(
        replace(state, watched=replace(state.watched, ref=ref(number))) for number, state in enumerate(states)
    )


def by_prometheus_client(polled: Snapshot, encoder: Encoder) -> bytes:
    return encoder(Families(batch_families(polled), poll_families(polled)))


def by_us(exposition: Exposition, polled: Snapshot, encoder: Encoder) -> bytes:
    return b"".join(exposition.encode(polled, Families(poll_families(polled)), encoder))


def encoder_for(accept: str) -> Encoder:
    return choose_encoder(accept)[0]


@unhurried
@given(st.sampled_from(ACCEPTED), st.lists(st.lists(STATES, max_size=4), min_size=1, max_size=3))
def test_every_scrape_has_the_bytes_of_prometheus_client(accept: str, scrapes: list[list[BatchState]]) -> None:
    encoder, exposition = encoder_for(accept), Exposition()
    for states in scrapes:
        polled = snapshot(states)
        expected = by_prometheus_client(polled, encoder)
        # The second time the batches have not changed.
        assert [by_us(exposition, polled, encoder) for _ in range(2)] == [expected] * 2


@unhurried
@given(STATES, STATES)
def test_what_has_changed_is_reported_anew(before: BatchState, after: BatchState) -> None:
    encoder, exposition = encoder_for(TEXT), Exposition()
    # Each field changes in a batch of its own.
    changes = [{}, *({field.name: getattr(after, field.name)} for field in fields(BatchState))]
    by_us(exposition, numbered(before for _ in changes), encoder)
    changed = numbered(replace(before, **change) for change in changes)
    assert by_us(exposition, changed, encoder) == by_prometheus_client(changed, encoder)


@pytest.mark.parametrize("accept", ACCEPTED)
def test_many_batches_have_the_bytes_of_prometheus_client(accept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # So many that a family has several blocks; every seventh is not known, so that families have gaps.
    monkeypatch.setattr(encoder_module, "_BATCHES_OF_A_BLOCK", 10)
    polled = snapshot(
        BatchState(watched=Watched(ref(number)), failure=Reason.NOT_FOUND) if number % 7 == 0 else finished(number)
        for number in range(26)
    )
    encoder, exposition = encoder_for(accept), Exposition()
    assert by_us(exposition, polled, encoder) == by_prometheus_client(polled, encoder)


@pytest.mark.parametrize("accept", ACCEPTED)
def test_other_families_are_those_of_prometheus_client(accept: str) -> None:
    registry = CollectorRegistry()
    Counter("requests", "With a \\ and\na line break.", ["code"], registry=registry).labels('2"00').inc()
    Gauge("free_bytes", "", registry=registry).set(float("nan"))
    Histogram("seconds", "", registry=registry).observe(0.7)
    Info("build", "", registry=registry).info({"version": "é\\\n"})
    encoder, polled = encoder_for(accept), snapshot([finished(1)])
    encoded = b"".join(Exposition().encode(polled, Families(registry.collect()), encoder))
    assert encoded == encoder(Families(batch_families(polled), registry.collect()))


@pytest.mark.parametrize("accept", ACCEPTED)
def test_an_empty_scrape_has_the_bytes_of_prometheus_client(accept: str) -> None:
    encoder, nothing = encoder_for(accept), snapshot([])
    assert by_us(Exposition(), nothing, encoder) == by_prometheus_client(nothing, encoder)
    assert b"".join(Exposition().encode(nothing, Families(), encoder)) == encoder(Families())


@pytest.mark.parametrize(
    "change",
    [
        lambda encoded: encoded.replace(b'",', b'", '),
        lambda encoded: encoded.replace(b'\\"', b'"'),
        lambda encoded: encoded.replace(b" 0.0\n", b" 0\n"),
        lambda encoded: encoded.replace(b"1e-07", b"0.0000001"),
        lambda encoded: encoded.replace(b"# HELP sitecore_cdp_batch", b"\n# HELP sitecore_cdp_batch"),
        lambda encoded: encoded.replace(b"}", b"} "),
        lambda encoded: encoded.replace(b"}", b" }"),
    ],
    ids=["labels", "quotes", "integers", "exponents", "heads", "values", "braces"],
)
def test_a_format_that_is_not_known_is_left_to_its_encoder(change: Callable[[bytes], bytes]) -> None:
    def encoder(families: Collector) -> bytes:
        return change(generate_latest(families))

    polled = snapshot([replace(finished(1), watched=Watched(ref(1), 'a "feed"'))])
    exposition = Exposition()
    assert by_us(exposition, polled, encoder) == by_prometheus_client(polled, encoder)


@pytest.mark.parametrize("accept", [accept for accept in ACCEPTED if "dots" not in accept and "values" not in accept])
def test_the_formats_of_prometheus_are_encoded_here(accept: str) -> None:
    families_encoded: list[int] = []

    def encoder(families: Collector) -> bytes:
        collected = list(families.collect())
        families_encoded.append(sum(len(family.samples) for family in collected))
        return encoder_for(accept)(Families(collected))

    polled = snapshot(map(finished, range(30)))
    assert by_us(Exposition(), polled, encoder) == by_prometheus_client(polled, encoder_for(accept))
    # The heads have no samples.
    assert max(families_encoded) < 20


def test_only_what_has_changed_is_encoded_again() -> None:
    exposition = Exposition()
    encoder = encoder_for(TEXT)
    by_us(exposition, snapshot(map(finished, range(3))), encoder)
    before = dict(exposition._cached)
    failing = replace(finished(1), reading=None, failure=Reason.TIMEOUT)
    by_us(exposition, snapshot([finished(0), failing, finished(2)]), encoder)
    after = exposition._cached
    assert [after[ref(number)] is before[ref(number)] for number in range(3)] == [True, False, True]


def test_what_is_reported_no_more_is_forgotten() -> None:
    exposition = Exposition()
    by_us(exposition, snapshot(map(finished, range(3))), encoder_for(TEXT))
    by_us(exposition, snapshot([finished(1)]), encoder_for(TEXT))
    assert exposition._cached.keys() == {ref(1)}
    by_us(exposition, snapshot([]), encoder_for(TEXT))
    assert not exposition._cached


def test_no_block_holds_the_lines_of_more_than_a_thousand_batches() -> None:
    polled = snapshot(map(finished, range(1100)))
    blocks = [*Exposition().encode(polled, Families(), encoder_for(TEXT))]
    lines_of_a_batch = len(BatchStatus)
    assert max(block.count(b"\n") for block in blocks) == 1000 * lines_of_a_batch


def test_threads_share_what_is_remembered() -> None:
    exposition = Exposition()
    scrapes = [snapshot(map(finished, range(start, start + 100))) for start in range(0, 50, 5)]
    encoder = encoder_for(OPENMETRICS)
    with ThreadPoolExecutor(8) as threads:
        encoded = list(threads.map(lambda polled: by_us(exposition, polled, encoder), scrapes * 5))
    assert encoded == [by_prometheus_client(polled, encoder) for polled in scrapes] * 5
