"""Render the Helm chart, into deploy/kubernetes and into the snapshots that its tests compare: `make kubernetes`.

It needs helm: the one in the environment that runs this, which `make helm-program` builds, or the one on the PATH.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.exporter_program import ROOT

CHART = ROOT / "deploy" / "helm"
# What the chart reads, because helm packages nothing from outside its folder. `make helm` copies it.
RULES = CHART / "files" / "alerts.yml"
DASHBOARDS = CHART / "files" / "dashboards"
KUBERNETES = ROOT / "deploy" / "kubernetes"
SNAPSHOTS = ROOT / "tests" / "system" / "chart_snapshots"
# By snapshot: the file with the values, and the name of the release.
CASES = {
    "default": (None, "acme"),
    "minimal": (CHART / "ci" / "minimal-values.yaml", "sitecore-cdp"),
    "full": (CHART / "ci" / "full-values.yaml", "globex"),
}
NAME = "sitecore-cdp-batch-exporter"
SOURCE = re.compile(rf"(?m)^---\n# Source: {NAME}/templates/(.*)\n")
# Those that only Helm has a use for. The version is that of the image, which kustomize may replace.
HELM_LABEL = re.compile(r"(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/(instance|managed-by|version)): .*\n")


class HelmError(Exception):
    """Helm is missing, or it refused what it was given. The text is its own."""


def find_helm() -> str | None:
    """Return the path of helm, or None."""
    return shutil.which(str(Path(sys.executable).with_name("helm"))) or shutil.which("helm")


def run_helm(*arguments: str | Path) -> str:
    """Return what helm prints.

    Raises:
        HelmError: It failed.

    """
    helm = find_helm()
    if helm is None:
        raise HelmError("helm not found: `make helm-program` builds it with Go")
    ran = subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)  # noqa: S603  The words are ours.
    if ran.returncode != 0:
        raise HelmError(ran.stderr)
    return ran.stdout


def render(
    values: Path | None, release: str = NAME, options: Sequence[str] = (), chart: Path = CHART
) -> dict[str, str]:
    """Return what `helm install` would send to Kubernetes, by the name of the template.

    Raises:
        HelmError: The values are not accepted.

    """
    given = [] if values is None else [f"--values={values}"]
    output = run_helm("template", release, chart, "--namespace=monitoring", *given, *options)
    head, *parts = SOURCE.split(output)
    if head.strip():
        raise HelmError(f"unexpected output: {head}")
    documents: dict[str, str] = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        documents[name] = f"{documents[name]}---\n{text}" if name in documents else text
    return documents


def manifests() -> dict[str, str]:
    """Render the files of deploy/kubernetes, for those who do without Helm, by their names."""
    rendered = render(CHART / "ci" / "kubernetes-values.yaml")
    return {name: HELM_LABEL.sub("", text) for name, text in rendered.items()}


def snapshot(documents: Mapping[str, str]) -> str:
    """Join what was rendered, with the names of the large files in place of their content."""
    text = "".join(f"---\n# {name}\n{text}" for name, text in sorted(documents.items()))
    for file, indent in [(RULES, "  "), *((file, "    ") for file in DASHBOARDS.iterdir())]:
        content = re.sub(r"(?m)^(?=.)", indent, file.read_text(encoding="utf-8"))
        text = text.replace(content, f"{indent}# The content of {file.relative_to(CHART)}.\n")
    return text


def main() -> int:
    """Write all files; return the exit status."""
    try:
        for name, text in manifests().items():
            (KUBERNETES / name).write_text(text, encoding="utf-8")
        for case, (values, release) in CASES.items():
            (SNAPSHOTS / f"{case}.yaml").write_text(snapshot(render(values, release)), encoding="utf-8")
    except HelmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
