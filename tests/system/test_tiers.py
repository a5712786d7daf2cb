"""The tiers of the suite: no test is left out without a reason, and nobody overlooks that some are."""

import re

import pytest

from tests import tiers
from tools.exporter_program import ROOT

pytest_plugins = ["pytester"]
DOCUMENT = ROOT / "docs" / "testing.md"
CONFTEST = "from tests.tiers import *"
PYPROJECT = """
[tool.pytest.ini_options]
addopts = ["-p", "no:cacheprovider", "-p", "no:randomly"]
markers = ["e2e: needs programs", "slow(reason): takes long"]
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml(PYPROJECT)
    pytester.makeconftest(CONFTEST)
    return pytester


@pytest.mark.parametrize("arguments", [[], ["-p", "xdist", "--numprocesses=2"]], ids=["one process", "two workers"])
def test_what_is_left_out_is_said_with_the_command_that_runs_it(
    suite: pytest.Pytester, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plugins that are installed take seconds to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    suite.makepyfile("""
        import pytest

        def test_fast(): pass

        @pytest.mark.slow(reason="because")
        @pytest.mark.parametrize("number", [1, 2])
        def test_slow(number): pass

        @pytest.mark.e2e
        def test_e2e(): pass
    """)
    run = suite.runpytest_subprocess if arguments else suite.runpytest_inprocess
    result = run("-m", "not slow and not e2e", *arguments)
    result.assert_outcomes(passed=1, deselected=0 if arguments else 3)
    result.stdout.fnmatch_lines(["Left out: 1 marked e2e and 2 marked slow. `make test-all` runs them; *"])


def test_a_run_of_everything_says_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_fast(): pass")
    assert "Left out" not in suite.runpytest_inprocess().stdout.str()


@pytest.mark.parametrize("mark", ["slow", "slow()", 'slow("because")', 'slow(reason="")'])
def test_nothing_is_slow_without_a_reason(suite: pytest.Pytester, mark: str) -> None:
    suite.makepyfile(f"""
        import pytest

        @pytest.mark.{mark}
        def test_slow(): pass
    """)
    result = suite.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_slow: say why: @pytest.mark.slow(reason=*"])


def rows_of(reasons: dict[str, str | None]) -> dict[str, str]:
    """Return the reasons by what has them: a module, if all its tests do, or the tests of a module."""
    modules: dict[str, dict[str, str | None]] = {}
    for test, reason in reasons.items():
        module, _, name = test.partition("::")
        modules.setdefault(module, {})[name] = reason
    rows = {}
    for module, by_name in modules.items():
        for reason in {*by_name.values()} - {None}:
            names = sorted(name for name, its in by_name.items() if its == reason)
            which = module if len(names) == len(by_name) else f"{module}: {', '.join(names)}"
            rows[which] = f"{reason}"
    return rows


def test_each_slow_test_is_listed_with_its_reason(pytestconfig: pytest.Config) -> None:
    documented = dict(re.findall(r"(?m)^\| `(tests/[^|]*)` \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8")))
    collected = rows_of(pytestconfig.stash[tiers.REASONS])
    if pytestconfig.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        # Perhaps not all tests of a module were collected.
        assert set(collected.values()) <= set(documented.values())
        return
    expected = "\n".join(f"| `{which}` | {why} |" for which, why in sorted(collected.items()))
    assert documented == collected, f"the list should be\n{expected}"
