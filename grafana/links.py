"""Where the panels lead. A link sets every variable, so that nothing chosen before hides what it promises to show."""

from typing import Final

BATCHES_UID: Final = "sitecore-cdp-batches"
BATCH_UID: Final = "sitecore-cdp-batch"
_KEPT: Final = "${datasource:queryparam}"
_RANGE: Final = "${__url_time_range}"
_DOCS: Final = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs"
# The alerts in prometheus/alerts.yml link to its sections.
RUNBOOK: Final = f"{_DOCS}/runbook.md"
ALL: Final = "$__all"


def here(*, feed: str = "${feed:queryparam}", status: tuple[str, ...] = (ALL,), panel: int | None = None) -> str:
    """Return the same dashboard for one feed, or those chosen; `panel` is the number of one that fills the screen."""
    return _batches("${__dashboard.uid}", feed=feed, status=status, panel=panel)


def one_feed(value: str) -> str:
    """Return the dashboard of all batches with those of one feed."""
    return _batches(BATCHES_UID, job=f"var-job={ALL}", feed=f"var-feed={value}")


def one_batch(ref: str) -> str:
    """Return the dashboard of one batch."""
    return f"/d/{BATCH_UID}?{_KEPT}&var-ref={ref}&{_RANGE}"


def runbook(section: str) -> str:
    """Return a section of the runbook."""
    return f"{RUNBOOK}#{section}"


def _batches(
    uid: str,
    *,
    job: str = "${job:queryparam}",
    feed: str,
    status: tuple[str, ...] = (ALL,),
    panel: int | None = None,
) -> str:
    statuses = "&".join(f"var-status={each}" for each in status)
    view = "" if panel is None else f"&viewPanel={panel}"
    return f"/d/{uid}?{_KEPT}&{job}&{feed}&{statuses}&{_RANGE}{view}"
