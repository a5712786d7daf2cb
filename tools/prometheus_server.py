"""The real Prometheus on a loopback port of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tools.program import MAX_WAIT, Program, running, wait_for, wait_until_ready


@dataclass(frozen=True)
class PrometheusServer:
    """A Prometheus that is ready. A wait that fails shows the logs of `programs`, its own among them."""

    url: str
    programs: Sequence[Program]

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series of an instant vector, as of now."""
        return [(series["metric"], float(series["value"][1])) for series in self._get("query", query=promql)]

    def query_range(
        self, promql: str, *, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Return labels and (Unix time, value) pairs of each series. Times are Unix seconds, `step` is seconds."""
        matrix = self._get("query_range", query=promql, start=start, end=end, step=step)
        return [(series["metric"], [(moment, float(value)) for moment, value in series["values"]]) for series in matrix]

    def wait_for_query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Repeat an instant query until it gives a series; a comparison in it filters, as `up == 1` does."""
        return wait_for(promql, lambda: self.query(promql), programs=self.programs)

    def _get(self, endpoint: str, **parameters: str | float) -> list[dict[str, Any]]:
        response = requests.get(f"{self.url}/api/v1/{endpoint}", params=parameters, timeout=MAX_WAIT)
        answer = response.json()
        if answer["status"] != "success":
            raise AssertionError(f"{answer}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


@contextmanager
def running_prometheus(
    config: Path, *, directory: Path, scraped: Program, own_session: bool = False
) -> Iterator[PrometheusServer]:
    """Run the `prometheus` of the PATH with this config, until the block ends.

    It runs in `directory`, with its data and log there. `own_session` is that of `running`.
    """
    command = [
        "prometheus",
        f"--config.file={config}",
        "--storage.tsdb.path=data",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = directory / "prometheus.log"
    with running(command, log=log, directory=directory, own_session=own_session) as program:
        yield PrometheusServer(wait_until_ready(program), [program, scraped])
