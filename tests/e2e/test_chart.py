"""The Helm chart, rendered by helm itself."""

import os
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alert_files import read
from tests.system.kubernetes_schemas import check_schema
from tools.chart import (
    CASES,
    CHART,
    KUBERNETES,
    NAME,
    SNAPSHOTS,
    HelmError,
    find_helm,
    manifests,
    render,
    run_helm,
    snapshot,
)

pytestmark = pytest.mark.e2e

REMEDY = "run `make kubernetes`, and look at what it changed"
VALUES = [None, *sorted((CHART / "ci").iterdir())]


@pytest.fixture(scope="module", autouse=True)
def helm() -> None:
    """Look for helm: without it the tests skip. In CI they fail where it could have been built."""
    if find_helm() is not None:
        return
    message = "helm not found; `make helm-program` builds it where there is Go"
    if os.environ.get("CI") == "true" and shutil.which("go") is not None:
        pytest.fail(message)
    pytest.skip(message)


def objects(*options: str, values: Path | None = None, release: str = NAME) -> dict[str, Any]:
    """Render the chart; return by kind what there is one of."""
    rendered = render(values, release, options)
    return {content["kind"]: content for text in rendered.values() for content in yaml.safe_load_all(text)}


def setting(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_what_the_snapshot_has(case: str) -> None:
    values, release = CASES[case]
    assert snapshot(render(values, release)) == (SNAPSHOTS / f"{case}.yaml").read_text(encoding="utf-8"), REMEDY


def test_the_plain_manifests_are_rendered_from_the_chart() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in KUBERNETES.iterdir()}
    del files["kustomization.yaml"]
    assert manifests() == files, REMEDY


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path and path.stem)
def test_helm_lints_the_chart(values: Path | None) -> None:
    given = [] if values is None else [f"--values={values}"]
    assert "0 chart(s) failed" in run_helm("lint", "--strict", CHART, *given)


def test_the_rules_and_dashboards_come_unchanged() -> None:
    """Braces in them are Prometheus' and Grafana's, not Helm's."""
    rendered = render(CASES["full"][0])
    rule = yaml.safe_load(rendered["prometheus-rule.yaml"])
    assert rule["spec"] == read(CHART / "files" / "alerts.yml")
    assert "{{ $labels" in rendered["prometheus-rule.yaml"]
    dashboards: dict[str, str] = {}
    for content in yaml.safe_load_all(rendered["dashboards.yaml"]):
        check_schema(content)
        dashboards |= content["data"]
    files = (CHART / "files" / "dashboards").iterdir()
    assert dashboards == {path.name: path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("acme", "sitecore-cdp-acme"),
        ("sitecore-cdp", "sitecore-cdp"),
        ("sitecore-cdp-acme", "sitecore-cdp-acme"),
        ("acme-sitecore-cdp", "sitecore-cdp-acme-sitecore-cdp"),
        # The longest that Helm allows. Some names have an ending.
        ("a" * 53, f"sitecore-cdp-{'a' * 50}"),
        (f"{'a' * 49}-bbb", f"sitecore-cdp-{'a' * 49}"),
    ],
)
def test_the_name_of_any_release_is_one_that_the_alerts_know(release: str, name: str) -> None:
    full = CASES["full"][0]
    assert objects(values=full, release=release)["Service"]["metadata"]["name"] == "sitecore-cdp-globex", "the override"
    found = objects(*setting("fullnameOverride="), values=full, release=release)
    assert found["Service"]["metadata"]["name"] == name
    # Other names may be longer.
    assert len(name) <= 63
    for content in found.values():
        if content["kind"] not in {"PrometheusRule", "ServiceMonitor"}:
            check_schema(content)


def test_two_releases_share_nothing() -> None:
    one, other = (objects(release=release) for release in ("acme", "globex"))
    assert not {content["metadata"]["name"] for content in one.values()} & {
        content["metadata"]["name"] for content in other.values()
    }
    selector = one["Service"]["spec"]["selector"]
    assert selector.items() <= one["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert not selector.items() <= other["Deployment"]["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (setting("replicas=2"), "replicas"),
        (setting("networkPolicy.prometheus=null"), "networkPolicy"),
        (setting("networkPolicy=null"), "networkPolicy"),
        (["--set-json", "networkPolicy.api=[]"], "networkPolicy"),
        (setting("credentials.clientKey=key"), "set both clientKey and apiToken, or neither"),
        (setting("credentials.apiToken=token"), "set both clientKey and apiToken, or neither"),
        (
            setting("credentials.clientKey=key", "credentials.apiToken=token", "credentials.existingSecret=there"),
            "not both",
        ),
        (setting("config.api.basic_auth.password=token"), "a ConfigMap is no place for secrets"),
        (setting("config.api.basic_auth.username=key"), "a ConfigMap is no place for secrets"),
        (setting("fullnameOverride=acme"), "fullnameOverride"),
    ],
)
def test_what_would_go_wrong_later_is_refused_at_once(options: Sequence[str], message: str) -> None:
    with pytest.raises(HelmError, match=message):
        render(None, options=options)


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({}, 3),
        ({"error_logs": None}, 3),
        ({"error_logs": {}}, 3),
        ({"error_logs": {"enabled": None}}, 3),
        ({"error_logs": {"enabled": True}}, 3),
        ({"error_logs": {"enabled": False}}, 2),
    ],
)
def test_the_storage_of_error_logs_is_reachable_if_they_are_read(
    config: dict[str, Any], rules: int, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    assert len(objects(values=values)["NetworkPolicy"]["spec"]["egress"]) == rules


def test_what_is_turned_off_is_gone() -> None:
    assert objects(*setting("webConfig=null", "podSecurityContext=null")) == objects(
        *setting(*(f"podSecurityContext.{key}=null" for key in ("runAsUser", "runAsGroup", "fsGroup")))
    )
    assert "NetworkPolicy" not in objects(*setting("networkPolicy.enabled=false"))
    context = objects(*setting(*(f"podSecurityContext.{key}=null" for key in ("runAsUser", "runAsGroup", "fsGroup"))))
    pod = context["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_annotations_say_http_without_tls() -> None:
    deployment = objects(*setting("scrapeAnnotations.enabled=true"))["Deployment"]
    assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scheme"] == "http"


def test_the_package_has_all_that_the_folder_renders(tmp_path: Path) -> None:
    run_helm("package", CHART, f"--destination={tmp_path}")
    [package] = tmp_path.iterdir()
    assert package.name == f"{NAME}-{read(CHART / 'Chart.yaml')['version']}.tgz"
    for values, release in CASES.values():
        assert render(values, release, chart=package) == render(values, release)
    with tarfile.open(package) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    tracked = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert names == {name for name in tracked if not name.startswith("ci/")}


@pytest.mark.parametrize("case", CASES)
def test_the_notes_name_the_secret_that_is_mounted_and_what_is_missing(case: str, tmp_path: Path) -> None:
    """helm prints the notes only where there is a cluster, so here a template includes them."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\ntext: |\n{{ include (print $.Template.BasePath "/NOTES.txt") . | indent 2 }}\n', encoding="utf-8"
    )
    values, release = CASES[case]
    rendered = render(values, release, chart=chart)
    notes = yaml.safe_load(rendered.pop("notes.yaml"))["text"]
    secret = {"default": "sitecore-cdp-acme", "minimal": "sitecore-cdp-token", "full": None}[case]
    assert re.findall("kubectl create secret generic (.*) --namespace=monitoring", notes) == [secret] * (case != "full")
    for missing in ("Nothing scrapes it yet", "The alerts are not installed", "The dashboards are not installed"):
        assert (missing in notes) is (case != "full")
    assert f"{'https' if case == 'full' else 'http'}://127.0.0.1:10311/" in notes
    # As people see it.
    assert "\n\n\n" not in notes
    assert max(map(len, notes.splitlines())) <= 120


def test_another_chart_can_depend_on_it(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    run_helm("package", CHART, f"--destination={parent / 'charts'}")
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    values = {NAME: {"config": {"api": {"base_url": "https://api-engage-jpe.sitecorecloud.io"}}}, "global": {"x": 1}}
    (parent / "values.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    rendered = run_helm("template", "acme", parent)
    [config] = [content for content in yaml.safe_load_all(rendered) if content["kind"] == "ConfigMap"]
    assert "api-engage-jpe" in config["data"]["config.yaml"]
