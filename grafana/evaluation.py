"""Every query of a dashboard, run against a real Prometheus as Grafana runs it, and what it returns as a table.

python -m grafana.evaluation --prometheus-url=http://localhost:9090
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests

DASHBOARD_FILE: Final = Path(__file__).parent / "dashboards" / "sitecore-cdp-batches.json"
BATCH_FILE: Final = DASHBOARD_FILE.with_name("sitecore-cdp-batch.json")
ALL: Final = "$__all"
HIDDEN: Final = 2
TIMEOUT: Final = 30.0

# An instant or a range vector, as Prometheus returns it.
Series = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TimeRange:
    """What the panels show: the end as Unix time, the length and the interval between points, in seconds."""

    end: float
    length: int
    interval: int
    scrape_interval: int = 15

    @property
    def built_in_variables(self) -> dict[str, str]:
        """Return Grafana's own variables. The rate interval has at least four scrapes."""
        return {
            "__interval": f"{self.interval}s",
            "__interval_ms": f"{self.interval * 1000}",
            "__range": f"{self.length}s",
            "__rate_interval": f"{max(self.interval + self.scrape_interval, 4 * self.scrape_interval)}s",
        }


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of Prometheus at `url`."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def label_values(self, label: str, selector: str, times: TimeRange) -> list[str]:
        """List the values that a label had in the time range."""
        parameters: dict[str, str | float] = {
            "match[]": selector,
            "start": times.end - times.length,
            "end": times.end,
        }
        response = self.session.get(f"{self.url}/api/v1/label/{label}/values", params=parameters, timeout=TIMEOUT)
        values: list[str] = _data(response)
        return values

    def query(self, expression: str, at: float) -> Series:
        """Run an instant query."""
        return self._query("query", {"query": expression, "time": at})

    def query_range(self, expression: str, times: TimeRange) -> Series:
        """Run a range query, whose times Grafana makes multiples of the interval."""
        end = times.end // times.interval * times.interval
        start = (times.end - times.length) // times.interval * times.interval
        return self._query("query_range", {"query": expression, "start": start, "end": end, "step": times.interval})

    def _query(self, endpoint: str, parameters: dict[str, str | float]) -> Series:
        # By POST, because some expressions are too long for a URL.
        response = self.session.post(f"{self.url}/api/v1/{endpoint}", data=parameters, timeout=TIMEOUT)
        series: Series = _data(response)["result"]
        return series


def _data(response: requests.Response) -> Any:  # noqa: ANN401  Each endpoint has its own type.
    answer = response.json()
    if answer["status"] != "success":
        raise ValueError(f"Prometheus says: {answer['error']}")
    return answer["data"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a query of a panel returned. `expression` has all variables filled in."""

    panel: Mapping[str, Any]
    name: str
    expression: str
    series: Series


def evaluate(
    dashboard: Mapping[str, Any], prometheus: Prometheus, times: TimeRange, chosen: Mapping[str, Sequence[str]]
) -> Iterator[Result]:
    """Run every query. `chosen` are the values of variables, where they are not the dashboard's own."""
    values = variable_values(dashboard, prometheus, times, chosen)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = fill_in(target["expr"], values | times.built_in_variables)
            if target["instant"]:
                series = prometheus.query(expression, times.end)
            else:
                series = prometheus.query_range(expression, times)
            yield Result(panel=panel, name=target["refId"], expression=expression, series=series)


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the panels that ask something, those of collapsed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def variable_values(
    dashboard: Mapping[str, Any], prometheus: Prometheus, times: TimeRange, chosen: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return what Grafana writes into a query for each variable. Later variables may depend on earlier ones."""
    values: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        name = variable["name"]
        selected = chosen.get(name, variable["current"]["value"])
        if variable["hide"] == HIDDEN and not variable["multi"]:
            # Nobody chooses these: Grafana takes the first option, or nothing.
            values[name] = next(iter(options(variable, prometheus, times, values)), "")
        elif not variable["multi"]:
            values[name] = selected if isinstance(selected, str) else selected[0]
        elif list(selected) != [ALL]:
            values[name] = any_of(selected)
        elif "allValue" in variable:
            values[name] = variable["allValue"]
        else:
            values[name] = any_of(options(variable, prometheus, times, values))
    return values


def options(
    variable: Mapping[str, Any], prometheus: Prometheus, times: TimeRange, values: Mapping[str, str]
) -> Sequence[str]:
    """List what can be chosen of a variable."""
    query = re.fullmatch(r"label_values\((.+),\s*(\w+)\)|query_result\((.+)\)", str(variable["query"]))
    if query is None:
        return [str(option["value"]) for option in variable["options"]]
    if query[3] is None:
        return prometheus.label_values(query[2], fill_in(query[1], values), times)
    # Grafana writes each series as text, and takes what the regular expression of the variable finds there.
    found = prometheus.query(fill_in(query[3], values), times.end)
    return [each["metric"]["ref"] for each in found]


def any_of(values: Sequence[str]) -> str:
    """Write several values as Grafana's Prometheus data source does for `=~`, escaped for regex and string."""
    escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\")) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Replace `$name` and `${name}`; a name that is not there raises KeyError. `$1` is no name."""
    return re.sub(r"\$(?:([a-zA-Z_]\w*)|{(\w+)})", lambda match: values[match[1] or match[2]], text)


def table(results: Sequence[Result]) -> str:
    """Write the results as a table in Markdown."""
    rows = [
        f"| {result.panel['title']} | {result.name} | {len(result.series)} | `{result.expression}` |"
        for result in results
    ]
    return "\n".join(["| panel | query | series | expression |", "|---|---|---|---|", *rows, ""])


def main() -> None:
    """Write the table for the past hour to standard output."""
    parser = argparse.ArgumentParser(description="Run every query of a dashboard and count the series it returns.")
    parser.add_argument("--prometheus-url", default="http://localhost:9090", help="default: %(default)s")
    parser.add_argument("--ref", help="ask for the dashboard of this batch, instead of that of all")
    arguments = parser.parse_args()
    file, chosen = (BATCH_FILE, {"ref": [arguments.ref]}) if arguments.ref else (DASHBOARD_FILE, {})
    dashboard = json.loads(file.read_text(encoding="utf-8"))
    times = TimeRange(end=time.time(), length=3600, interval=60)
    try:
        results = list(evaluate(dashboard, Prometheus(arguments.prometheus_url), times, chosen))
    # Of requests are what is no URL, and an answer that is no JSON; Prometheus' own refusal is a ValueError.
    except (requests.RequestException, ValueError) as error:
        sys.exit(f"{arguments.prometheus_url} does not answer as Prometheus does: {error}")
    sys.stdout.write(table(results))


if __name__ == "__main__":
    main()
