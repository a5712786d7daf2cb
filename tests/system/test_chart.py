"""The Helm chart: its copies, its values, and what it rendered to, which tests/e2e/test_chart.py renders again.

Nothing here needs helm: the snapshots and the manifests of deploy/kubernetes are what it made.
"""

import base64
import copy
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.cli import _parse_flags, main
from sitecore_cdp_exporter.config.model import load_config
from tests.alert_files import read
from tests.exporter_program import ROOT
from tests.system.kubernetes_schemas import Metadata, ServiceMonitor, check_schema, jsonschema
from tools.chart import CASES, CHART, DASHBOARDS, KUBERNETES, NAME, RULES, SNAPSHOTS

Object = dict[str, Any]
DEFAULTS: Object = read(CHART / "values.yaml")
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def by_kind(documents: Iterator[Object]) -> dict[str, list[Object]]:
    kinds: dict[str, list[Object]] = {}
    for document in documents:
        kinds.setdefault(document["kind"], []).append(document)
    return kinds


def snapshot(case: str) -> dict[str, list[Object]]:
    return by_kind(yaml.load_all((SNAPSHOTS / f"{case}.yaml").read_bytes(), Loader=yaml.CSafeLoader))


RENDERED = {
    **{case: snapshot(case) for case in CASES},
    "plain manifests": by_kind(read(path) for path in KUBERNETES.iterdir() if path.name != "kustomization.yaml"),
}
BUILT_IN = ("ConfigMap", "Deployment", "NetworkPolicy", "Secret", "Service")
CUSTOM = ("ServiceMonitor", "PrometheusRule")
every_case = pytest.mark.parametrize("case", RENDERED)


def only(case: str, kind: str) -> Object:
    [found] = RENDERED[case][kind]
    return found


def pod(case: str) -> Object:
    spec: Object = only(case, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(case: str) -> Object:
    [found] = pod(case)["containers"]
    assert isinstance(found, dict)
    return found


def merged(defaults: Object, values: Object) -> Object:
    """Merge values as Helm does: maps by key, and null removes a key."""
    result = dict(defaults)
    for key, value in values.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def values_of(case: str) -> Object:
    path = CASES[case][0]
    return DEFAULTS if path is None else merged(DEFAULTS, read(path))


def test_the_chart_has_the_rules_and_all_dashboards() -> None:
    remedy = "run `make helm`, which copies them"
    assert RULES.read_bytes() == (ROOT / "prometheus" / "alerts.yml").read_bytes(), remedy
    dashboards = {path.name: path.read_bytes() for path in (ROOT / "grafana" / "dashboards").glob("*.json")}
    copies = {path.name: path.read_bytes() for path in DASHBOARDS.iterdir()}
    assert copies == dashboards, remedy
    assert copies
    assert {path.name for path in RULES.parent.iterdir()} == {RULES.name, DASHBOARDS.name}


def test_the_chart_has_the_version_of_the_exporter() -> None:
    chart = read(CHART / "Chart.yaml")
    assert (chart["name"], chart["version"], chart["appVersion"]) == (NAME, __version__, __version__)


def test_kubernetes_accepts_what_was_rendered() -> None:
    # In one test, since each process takes half a second to load the schemas.
    checked = []
    for kinds in RENDERED.values():
        documents = [document for kind in BUILT_IN for document in kinds.get(kind, [])]
        for document in documents:
            if document not in checked:
                check_schema(document)
                checked.append(document)
    misspelled = copy.deepcopy(only("plain manifests", "Deployment"))
    misspelled["spec"]["template"]["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(Exception, match="automountServiceAcountToken") as raised:
        check_schema(misspelled)
    assert raised.type.__name__ == "ValidationError"


@every_case
def test_the_operator_accepts_what_was_rendered(case: str) -> None:
    kinds = RENDERED[case]
    for document in kinds.get("ServiceMonitor", []):
        ServiceMonitor.model_validate(document)
    for document in kinds.get("PrometheusRule", []):
        Metadata.model_validate(document["metadata"])
    assert {"ConfigMap", "Deployment", "Service"} <= set(kinds) <= {*BUILT_IN, *CUSTOM}


@every_case
def test_the_pod_is_restricted(case: str) -> None:
    """Hold what the Pod Security Standard `restricted` asks for, and what it leaves open."""
    assert {key: pod(case)["securityContext"][key] for key in ("runAsNonRoot", "seccompProfile")} == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod(case)["securityContext"].get("runAsUser") != 0
    assert container(case)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "serviceAccountName"} & set(pod(case))
    assert pod(case)["automountServiceAccountToken"] is False
    assert "env" not in container(case), "secrets come as files"
    assert not [port for port in container(case)["ports"] if "hostPort" in port]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert {key for volume in pod(case)["volumes"] for key in volume} - {"name"} <= allowed
    assert all(mount["readOnly"] and "subPath" not in mount for mount in container(case)["volumeMounts"])
    assert {mount["name"] for mount in container(case)["volumeMounts"]} == {
        volume["name"] for volume in pod(case)["volumes"]
    }
    assert only(case, "Deployment")["spec"]["replicas"] == 1


@every_case
def test_what_was_rendered_finds_each_other(case: str) -> None:
    deployment, service = only(case, "Deployment"), only(case, "Service")
    pod_labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        *(policy["spec"]["podSelector"]["matchLabels"] for policy in RENDERED[case].get("NetworkPolicy", [])),
    ]
    for one, other in pairwise(selectors):
        assert one == other
    assert selectors[0].items() <= pod_labels.items()
    for monitor in RENDERED[case].get("ServiceMonitor", []):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    # The operator makes it the job, and the alerts know the exporter by how its job begins.
    assert service["metadata"]["name"].startswith("sitecore-cdp")
    ports = {port["name"]: port["containerPort"] for port in container(case)["ports"]}
    assert service["spec"]["ports"] == [{"name": "metrics", "port": ports["metrics"], "targetPort": "metrics"}]
    for probe, path in (("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
        assert container(case)[probe]["httpGet"] == {"path": path, "port": "health"}
    assert f"--web.listen-address=:{ports['metrics']}" in container(case)["args"]
    assert f"--web.health-listen-address=:{ports['health']}" in container(case)["args"]


@every_case
def test_the_config_and_the_flags_are_those_of_the_exporter(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = _parse_flags(container(case)["args"])
    data = config_map(case)["data"]
    assert mounted(case)[flags.config_file.parent]["configMap"]["name"] == config_map(case)["metadata"]["name"]
    assert [flags.config_file.name] == list(data)
    config = tmp_path / "config.yaml"
    config.write_text(data["config.yaml"], encoding="utf-8")
    arguments = [f"--config.file={config}", "--config.check"]
    if flags.web_config_file:
        name = mounted(case)[flags.web_config_file.parent]["secret"]["secretName"]
        [secret] = [secret for secret in RENDERED[case]["Secret"] if secret["metadata"]["name"] == name]
        assert list(secret["data"]) == [flags.web_config_file.name]
        web_config = tmp_path / "web.yaml"
        web_config.write_bytes(base64.b64decode(secret["data"]["web.yaml"]))
        arguments.append(f"--web.config.file={web_config}")
    assert main(arguments) == 0, capsys.readouterr().err


def mounted(case: str) -> dict[Path, Object]:
    """Return the volumes of the container by where they are mounted."""
    volumes = {volume["name"]: volume for volume in pod(case)["volumes"]}
    return {Path(mount["mountPath"]): volumes[mount["name"]] for mount in container(case)["volumeMounts"]}


def config_map(case: str) -> Object:
    [found] = [document for document in RENDERED[case]["ConfigMap"] if "config.yaml" in document["data"]]
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_config_says_what_the_values_say(case: str, tmp_path: Path) -> None:
    """Helm parses the values and writes them again: no date, number, time or ref may change on that way."""
    rendered, meant = tmp_path / "rendered.yaml", tmp_path / "meant.yaml"
    rendered.write_text(config_map(case)["data"]["config.yaml"], encoding="utf-8")
    meant.write_text(yaml.safe_dump(values_of(case)["config"]), encoding="utf-8")
    assert load_config(rendered) == load_config(meant)


@every_case
def test_the_secret_that_the_config_reads_is_mounted(case: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(config_map(case)["data"]["config.yaml"], encoding="utf-8")
    [volume] = [volume for volume in pod(case)["volumes"] if volume["name"] == "credentials"]
    [mount] = [mount for mount in container(case)["volumeMounts"] if mount["name"] == "credentials"]
    auth = load_config(config).api.basic_auth
    keys = {Path(mount["mountPath"], item["path"]): item["key"] for item in volume["secret"]["items"]}
    assert keys.keys() == {auth.username_file, auth.password_file}
    named = {secret["metadata"]["name"]: secret["data"] for secret in RENDERED[case].get("Secret", [])}
    if case == "full":
        data = named[volume["secret"]["secretName"]]
        secrets = {path: base64.b64decode(data[key]).decode() for path, key in keys.items()}
        given = values_of(case)["credentials"]
        assert secrets == {auth.username_file: given["clientKey"], auth.password_file: given["apiToken"]}
    else:
        assert named == {}


def test_where_the_chart_makes_no_secret_it_names_the_one_that_is_there() -> None:
    names = {
        case: next(volume["secret"]["secretName"] for volume in pod(case)["volumes"] if "secret" in volume)
        for case in RENDERED
    }
    assert names == {
        "default": "sitecore-cdp-acme",
        "minimal": "sitecore-cdp-token",
        "full": "sitecore-cdp-globex",
        "plain manifests": NAME,
    }
    assert {case for case in RENDERED if "Secret" in RENDERED[case]} == {"full"}


def test_only_prometheus_gets_in_and_only_names_the_api_and_error_logs_get_out() -> None:
    for case in ("default", "plain manifests", "full"):
        spec = only(case, "NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        [ingress] = spec["ingress"]
        assert ingress["ports"] == [{"protocol": "TCP", "port": "metrics"}]
        names, api, error_logs, *_ = spec["egress"]
        assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
        assert api["ports"] == error_logs["ports"] == [{"protocol": "TCP", "port": 443}]
        assert all(rule["to"] for rule in spec["egress"]), "an empty list means everybody"
        assert ingress["from"]
    given = values_of("full")["networkPolicy"]
    rules = only("full", "NetworkPolicy")["spec"]
    assert rules["ingress"][0]["from"] == given["prometheus"]
    assert [rule["to"] for rule in rules["egress"][:3]] == [given["dns"], given["api"], given["errorLogs"]]
    assert rules["egress"][3:] == given["extraEgress"]


def test_without_error_logs_their_storage_is_out_of_reach() -> None:
    assert values_of("minimal")["config"]["error_logs"] == {"enabled": False}
    names, api = only("minimal", "NetworkPolicy")["spec"]["egress"]
    assert names["to"] == DEFAULTS["networkPolicy"]["dns"]
    assert api["to"] == DEFAULTS["networkPolicy"]["api"]


def test_grafana_finds_the_dashboards() -> None:
    assert DEFAULTS["dashboards"]["labels"] == {"grafana_dashboard": "1"}
    maps = [document for document in RENDERED["full"]["ConfigMap"] if "config.yaml" not in document["data"]]
    assert len({document["metadata"]["name"] for document in maps}) == len(maps)
    shown = [name for document in maps for name in document["data"]]
    assert sorted(shown) == sorted(path.name for path in DASHBOARDS.iterdir())
    for document in maps:
        assert values_of("full")["dashboards"]["labels"].items() <= document["metadata"]["labels"].items()
        assert document["metadata"]["annotations"] == values_of("full")["dashboards"]["annotations"]


def test_nothing_that_needs_custom_resources_is_rendered_unasked() -> None:
    assert {case for case in RENDERED if set(CUSTOM) & set(RENDERED[case])} == {"full", "plain manifests"}
    assert set(CUSTOM) <= set(RENDERED["full"])


def test_the_annotations_name_the_port_of_the_metrics() -> None:
    annotations = only("full", "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert (
        annotations.items()
        >= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "10311",
            "prometheus.io/path": "/metrics",
            # The web config has TLS.
            "prometheus.io/scheme": "https",
        }.items()
    )
    assert "annotations" not in only("default", "Deployment")["spec"]["template"]["metadata"]


def leaves(values: Object, at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def test_the_full_values_set_every_value_and_otherwise_than_the_default() -> None:
    full = dict(leaves(values_of("full")))
    same = {name for name, value in leaves(DEFAULTS) if full.get(name) == value}
    assert {name for name in same if not name.startswith("config.")} == {
        # Instead the chart makes the Secret.
        "credentials.existingSecret",
        "networkPolicy.enabled",
    }


def described(schema: Object) -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        nested = list(described(value))
        yield from [f"{name}.{each}" for each in nested] or [name]


def test_the_schema_describes_every_value_and_no_other() -> None:
    free = {"config", "resources", "webConfig"}
    named = {name for name in described(SCHEMA) if name.split(".")[0] not in free}
    given = {name for name, _ in leaves(DEFAULTS) if name.split(".")[0] not in free}
    # Maps with keys of the user's choice, whose defaults are keys of one.
    given = {re.sub(r"^(dashboards\.labels)\..*", r"\1", name) for name in given}
    optional = {"global", "podSecurityContext.fsGroupChangePolicy", "podSecurityContext.supplementalGroups"}
    assert named - optional == given
    assert optional <= named


def accepts(values: Object) -> list[str]:
    """Return what the schema says against the defaults with these values."""
    validator = jsonschema().Draft7Validator(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(merged(DEFAULTS, values))]


@pytest.mark.parametrize("path", [None, *sorted((CHART / "ci").iterdir())], ids=lambda path: path and path.stem)
def test_the_schema_accepts_the_values_that_are_rendered(path: Path | None) -> None:
    assert accepts({} if path is None else read(path)) == []


MISTAKES: list[tuple[Object, str]] = [
    ({"replicas": 2}, "$"),
    ({"image": {"digest": "0.2.0"}}, "$.image.digest"),
    ({"config": {"api": {"base_url": None}}}, "$.config.api"),
    ({"networkPolicy": {"prometheus": []}}, "$.networkPolicy.prometheus"),
    ({"networkPolicy": {"prometheus": None}}, "$.networkPolicy"),
    ({"networkPolicy": {"api": [{}]}}, "$.networkPolicy.api[0]"),
    ({"podSecurityContext": {"runAsUser": 0}}, "$.podSecurityContext.runAsUser"),
    ({"podSecurityContext": {"runAsNonRoot": False}}, "$.podSecurityContext"),
    ({"podLabels": {"year": 2026}}, "$.podLabels.year"),
    ({"extraArgs": ["once"]}, "$.extraArgs[0]"),
    ({"serviceMonitor": {"endpoint": {"honorLabels": True}}}, "$.serviceMonitor.endpoint"),
    ({"serviceMonitor": {"interval": "15"}}, "$.serviceMonitor.interval"),
    ({"serviceMonitor": {"enabled": "false"}}, "$.serviceMonitor.enabled"),
    ({"fullnameOverride": "acme-exporter"}, "$.fullnameOverride"),
]


def test_the_schema_refuses_each_mistake() -> None:
    # In one test, since each process takes half a second to import the validator.
    found = [[error.partition(": ")[0] for error in accepts(values)] for values, _ in MISTAKES]
    assert found == [[where] for _, where in MISTAKES]


PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
# Those of one organisation, and what differs in another.
VALUES, OTHER_VALUES = [
    block
    for block in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
    if "serviceMonitor" in block
]


@pytest.mark.parametrize("values", [VALUES, merged(VALUES, OTHER_VALUES)], ids=["one", "another organisation"])
def test_the_values_of_the_page_are_accepted(
    values: Object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accepts(values) == []
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(merged(DEFAULTS, values)["config"]), encoding="utf-8")
    assert main([f"--config.file={config}", "--config.check"]) == 0, capsys.readouterr().err


def test_the_commands_of_the_page_make_the_secret_that_a_release_of_that_name_mounts() -> None:
    releases = re.findall(r"helm upgrade --install (\S+) deploy/helm ", PAGE)
    assert releases == [NAME, "sitecore-cdp-acme"]
    assert all(release.startswith("sitecore-cdp") for release in releases), "so it is the name of its objects"
    for release in releases:
        assert f"kubectl create secret generic {release} --namespace=monitoring" in PAGE


def test_the_page_says_what_every_group_of_values_is_for() -> None:
    table = PAGE.split("\n| Values |")[1].split("\n\n")[0]
    explained = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    usual = {"affinity", "extraArgs", "fullnameOverride", "image", "imagePullSecrets", "nodeSelector"}
    usual |= {"podAnnotations", "podLabels", "resources", "tolerations"}
    assert explained | usual == set(DEFAULTS)
