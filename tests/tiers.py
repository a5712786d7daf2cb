"""Two tiers of tests: those that always run, and those marked `slow` or `e2e`.

A slow test gives its reason. A run that leaves tests out says so at its end, with the command that runs them.
"""

from collections import Counter
from typing import Any

import pytest

MARKS = ("slow", "e2e")
LEFT_OUT = pytest.StashKey[Counter[str]]()
# By test, without its parameters; the tests that are left out are here, too.
REASONS = pytest.StashKey[dict[str, str | None]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()
    config.stash[REASONS] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note the reasons of slow tests, and refuse one without."""
    for item in items:
        mark = item.get_closest_marker("slow")
        if mark is not None and (mark.args or not mark.kwargs.get("reason")):
            raise pytest.UsageError(f'{item.nodeid}: say why: @pytest.mark.slow(reason="...")')
        if item.get_closest_marker("e2e") is None:
            item.config.stash[REASONS][item.nodeid.partition("[")[0]] = mark and mark.kwargs["reason"]


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        # Whoever chooses tests by -k knows what is left out.
        if not item.config.option.keyword:
            item.config.stash[LEFT_OUT].update([mark for mark in MARKS if item.get_closest_marker(mark)][:1])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        left_out = session.config.stash[LEFT_OUT]
        session.config.workeroutput["left out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401  pytest-xdist has no types.
    # All workers collect the same tests.
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = " and ".join(f"{count} marked {mark}" for mark, count in sorted(config.stash[LEFT_OUT].items()))
    if counts:
        terminalreporter.write_line(f"Left out: {counts}. `make test-all` runs them; docs/testing.md says why.")
