"""The manifests and the unit of deploy/: what they say, and that the exporter runs the way that they start it.

There is no Kubernetes here, and systemd is no PID 1: the kubelet's mounts and systemd's credentials are built as these
build them, and the commands are run as they would be run.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydantic import ValidationError

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config.model import load_config
from tests.alert_files import GROUPS, read
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, forked, wait_until_listening
from tests.system.kubernetes_schemas import Metadata, ServiceMonitor, check_schema
from tests.system.systemd_unit import UNIT_FILE, Unit
from tests.watch.mounted_volume import MountedVolume
from tools.program import answers_ok, running, wait_for
from tools.sandbox import Sandbox

KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD_CONFIG = ROOT / "deploy" / "systemd" / "config.yaml"
DEPLOYMENT_PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
NAME = "sitecore-cdp-batch-exporter"
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
OTHER_REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a12"


def manifest(name: str) -> Any:  # noqa: ANN401  What YAML holds.
    return read(KUBERNETES / name)


def test_the_service_monitor_has_only_known_fields() -> None:
    service_monitor = manifest("service-monitor.yaml")
    ServiceMonitor.model_validate(service_monitor)
    service_monitor["spec"]["endpoints"][0]["honourLabels"] = False
    with pytest.raises(ValidationError, match="honourLabels"):
        ServiceMonitor.model_validate(service_monitor)


def test_the_folder_is_what_kustomize_applies() -> None:
    kustomization = manifest("kustomization.yaml")
    assert {path.name for path in KUBERNETES.iterdir()} == {*kustomization["resources"], "kustomization.yaml"}
    assert kustomization["namespace"] == "monitoring"
    [image] = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == container()["image"] == f"{NAME}:{__version__}"


def test_the_prometheus_rule_is_made_of_the_alerts() -> None:
    rule = manifest("prometheus-rule.yaml")
    Metadata.model_validate(rule["metadata"])
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert set(rule) == {"apiVersion", "kind", "metadata", "spec"}
    assert rule["spec"] == {"groups": GROUPS}, "run `make helm`, which copies them"
    assert GROUPS


def test_make_copies_any_alerts_into_the_prometheus_rule(tmp_path: Path) -> None:
    alerts = (
        "# A comment.\n\ngroups:\n- name: batches\n  rules:\n  - alert: 'It''s down'\n    expr: |\n"
        "      sum(sitecore_cdp_up)\n\n        == 0  # $HOME %s \\n\n    annotations:\n      summary: >-\n"
        "        one\n        two\nspec:\n"
    )
    for folder in ("prometheus", "deploy", "grafana"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "prometheus" / "alerts.yml").write_text(alerts, encoding="utf-8")
    (tmp_path / "grafana" / "dashboards" / "another.json").write_text("{}\n", encoding="utf-8")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for _ in range(2):
        subprocess.run(["make", "helm"], cwd=tmp_path, capture_output=True, check=True)
        rule = yaml.safe_load((tmp_path / "deploy/kubernetes/prometheus-rule.yaml").read_text(encoding="utf-8"))
        assert rule["spec"] == yaml.safe_load(alerts)
        assert rule["metadata"] == manifest("prometheus-rule.yaml")["metadata"]
    assert (tmp_path / "deploy/helm/files/alerts.yml").read_text(encoding="utf-8") == alerts
    copied = {path.name for path in (tmp_path / "deploy/helm/files/dashboards").iterdir()}
    assert copied == {path.name for path in (tmp_path / "grafana/dashboards").iterdir()}
    assert "another.json" in copied


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("deployment.yaml")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    containers: list[dict[str, Any]] = pod()["containers"]
    assert len(containers) == 1
    return containers[0]


def test_the_pod_has_no_right_that_it_does_not_need() -> None:
    assert manifest("deployment.yaml")["spec"]["replicas"] == 1
    assert pod()["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "initContainers"} & set(pod())
    [user] = re.findall(r"^USER (\d+):\1$", DOCKERFILE, flags=re.MULTILINE)
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "fsGroup": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container()["resources"]["limits"]) == {"cpu", "memory"}
    assert "env" not in container(), "secrets come as files"
    mounts = container()["volumeMounts"]
    assert [set(mount) for mount in mounts] == [{"name", "mountPath", "readOnly"}] * 2, "folders, without subPath"
    assert all(mount["readOnly"] for mount in mounts)


def test_the_manifests_find_each_other() -> None:
    labels = manifest("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    service, policy, service_monitor = (
        manifest(f"{name}.yaml") for name in ("service", "network-policy", "service-monitor")
    )
    assert manifest("deployment.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert service_monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()

    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    [service_port] = service["spec"]["ports"]
    [ingress] = policy["spec"]["ingress"]
    [endpoint] = service_monitor["spec"]["endpoints"]
    assert ports[service_port["targetPort"]] == service_port["port"] == 10311
    assert ingress["ports"] == [{"protocol": "TCP", "port": service_port["targetPort"]}]
    assert endpoint["port"] == service_port["name"]
    # The operator makes it the job, and the alerts know the exporter by how its job begins.
    assert service["metadata"]["name"].startswith("sitecore-cdp")
    for probe, path in (("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
        assert container()[probe]["httpGet"] == {"path": path, "port": "health"}
    assert f"--web.listen-address=:{ports['metrics']}" in container()["args"]
    assert f"--web.health-listen-address=:{ports['health']}" in container()["args"]


def test_only_prometheus_gets_in_and_only_names_and_https_get_out() -> None:
    spec = manifest("network-policy.yaml")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    [ingress] = spec["ingress"]
    [peer] = ingress["from"]
    assert set(peer) == {"namespaceSelector", "podSelector"}, "one entry: both must hold"
    names, *https = spec["egress"]
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert all("namespaceSelector" in peer and "podSelector" in peer for peer in names["to"])
    # The API, and the storage of error logs.
    assert len(https) == 2
    for rule in https:
        assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
        assert [set(peer) for peer in rule["to"]] == [{"ipBlock"}] * 2


def commands(page: str, first: str) -> str:
    """Return the shell commands of the only block that has `first`."""
    [block] = [text for text in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL) if first in text]
    return str(block)


def section(title: str) -> str:
    """Return the text of the page below a heading of the second level, up to the next one."""
    return DEPLOYMENT_PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


SYSTEMD = section("systemd")
ORGANISATIONS = section("Several organisations")


def made_secret(block: str) -> tuple[str, set[str]]:
    """Return the name and the keys of the Secret that the commands make."""
    [command] = re.findall(r"kubectl create secret generic(?:.*\\\n)*.*", block)
    words = shlex.split(command.replace("\\\n", " "))
    return words[4], {word.removeprefix("--from-file=").split("=")[0] for word in words if "--from-file=" in word}


def test_the_commands_of_the_page_make_the_secret_that_is_mounted() -> None:
    [secret] = [volume["secret"] for volume in pod()["volumes"] if "secret" in volume]
    name, keys = made_secret(section("Kubernetes"))
    assert name == secret["secretName"]
    assert keys == {item["key"] for item in secret["items"]}


@pytest.fixture
def as_root_below(tmp_path: Path) -> Callable[[str], None]:
    """Run commands of the page with `tmp_path` in place of /, and with somebody who types secrets when asked."""
    asking = tmp_path / "bin" / "systemd-ask-password"
    asking.parent.mkdir()
    asking.write_text('#!/bin/sh\necho "secret for $1"\n', encoding="utf-8")
    asking.chmod(0o755)
    environment = os.environ | {"PATH": f"{asking.parent}:{os.environ['PATH']}"}

    def run(block: str) -> None:
        here = re.sub(r"(?<=[\s=])/etc/", f"{tmp_path}/etc/", block)
        assert here != block
        # Also in a shell that would leave the files to their owner.
        subprocess.run(["sh", "-euc", f"umask 077\n{here}"], cwd=ROOT, env=environment, check=True)

    return run


def test_the_page_installs_the_program_that_the_unit_starts() -> None:
    program = Path(Unit.read(UNIT_FILE).command("ExecStart")[0])
    umask, venv, *installing, unit = map(shlex.split, commands(SYSTEMD, "pip").splitlines())
    assert umask == ["umask", "022"]
    # ProtectHome hides others, so it is not the one that comes first on the PATH.
    assert venv == ["/usr/bin/python3", "-m", "venv", str(program.parent.parent)]
    assert unit[0] == "install"
    # They need a package index, so they are not run.
    for words in installing:
        assert words[0] == str(program.parent / "pip")
        assert words[1] in {"install", "check"}
        assert all((ROOT / word).exists() for word in words[2:] if not word.startswith("-"))


def test_the_page_installs_all_that_the_unit_names(as_root_below: Callable[[str], None], tmp_path: Path) -> None:
    as_root_below(commands(SYSTEMD, "pip").splitlines()[-1])
    as_root_below(commands(SYSTEMD, "systemd-ask-password"))
    unit = Unit.read(tmp_path / "etc" / "systemd" / "system" / UNIT_FILE.name)
    assert unit == Unit.read(UNIT_FILE)
    config = installed_config(unit, tmp_path)
    assert config.read_bytes() == SYSTEMD_CONFIG.read_bytes()
    assert config.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc" / "credstore").stat().st_mode & 0o777 == 0o700
    loaded = dict(value.split(":") for value in unit.values("LoadCredential"))
    for name, words in (("client_key", "Client key:"), ("api_token", "API token:")):
        path = Path(f"{tmp_path}{loaded.pop(name)}")
        assert path.read_text(encoding="utf-8") == f"secret for {words}\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert loaded == {}


def installed_config(unit: Unit, directory: Path) -> Path:
    [option] = [word for word in unit.command("ExecStart") if word.startswith("--config.file=")]
    return Path(f"{directory}{option.removeprefix('--config.file=')}")


def test_installing_again_keeps_the_config_that_was_edited(
    as_root_below: Callable[[str], None], tmp_path: Path
) -> None:
    configure = commands(SYSTEMD, "systemd-ask-password")
    as_root_below(configure)
    config = installed_config(Unit.read(UNIT_FILE), tmp_path)
    config.write_text("edited", encoding="utf-8")
    as_root_below(configure)
    as_root_below(commands(SYSTEMD, "pip").splitlines()[-1])
    assert config.read_text(encoding="utf-8") == "edited"


def test_the_upgrade_asks_the_new_version_about_the_config_of_the_unit(tmp_path: Path) -> None:
    check, reload, restart = commands(SYSTEMD, "--config.check").replace("\\\n", " ").splitlines()
    started = [word for word in Unit.read(UNIT_FILE).command("ExecStart") if not word.startswith("--web.")]
    assert shlex.split(check) == [*started, "--config.check"]
    assert (reload, restart) == ("systemctl daemon-reload", f"systemctl restart {NAME}")
    config = tmp_path / "config.yaml"
    shutil.copy(SYSTEMD_CONFIG, config)
    # Its secrets are where only systemd puts them.
    assert main([f"--config.file={config}", "--config.check"]) == 0


def drop_in(text: str) -> tuple[tuple[str, str], ...]:
    """Return the setting of a drop-in that has one."""
    section, setting = text.splitlines()
    assert section == "[Service]"
    name, _, value = setting.partition("=")
    return ((name, value),)


def test_another_organisation_shares_nothing_but_the_program(
    as_root_below: Callable[[str], None], tmp_path: Path
) -> None:
    as_root_below(commands(ORGANISATIONS, "sed "))
    units = tmp_path / "etc" / "systemd" / "system"
    acme = f"{NAME}@acme"
    template = Unit.read(units / f"{NAME}@.service", acme)
    port = (units / f"{acme}.service.d" / "port.conf").read_text(encoding="utf-8")
    one, other = Unit.read(UNIT_FILE), Unit((*template.settings, *drop_in(port)))
    shared = set(one.command("ExecStart")) & set(other.command("ExecStart"))
    assert shared == {one.command("ExecStart")[0]}
    assert len(one.command("ExecStart")) == len(other.command("ExecStart")) == 3
    assert other.values("LoadCredential") == [
        f"{name}:/etc/credstore/{acme}.{name}" for name in ("client_key", "api_token")
    ]
    differing = {setting for setting in one.settings if setting not in template.settings}
    assert {name for name, _ in differing} == {"ExecStart", "LoadCredential"}
    auth = load_config(installed_config(other, tmp_path)).api.basic_auth
    folder = Path("/run/credentials", f"{acme}.service")
    assert [auth.username_file, auth.password_file] == [folder / "client_key", folder / "api_token"]


def blocks(language: str) -> list[str]:
    """Return the blocks of the section about several organisations."""
    return re.findall(rf"```{language}\n(.*?)```", ORGANISATIONS, flags=re.DOTALL)


# The first is for Helm: test_chart.py.
_, OVERLAY_TEXT, ORGANISATION_CONFIG = blocks("yaml")
OVERLAY: dict[str, Any] = yaml.safe_load(OVERLAY_TEXT)


def test_the_overlay_names_every_selector_of_the_folder() -> None:
    """Structure only: this reads the text of the overlay. Where kubectl is, the tests below build it."""
    [labels] = OVERLAY["labels"]
    assert labels["includeTemplates"] is True
    named = {field["kind"]: field["path"].split("/") for field in labels["fields"]}
    for file in manifest("kustomization.yaml")["resources"]:
        content = manifest(file)
        if "spec" in content and content["kind"] != "PrometheusRule":
            value = content
            for key in named.pop(content["kind"]):
                value = value[key]
            assert value == {"app.kubernetes.io/name": NAME}, file
    assert named == {}
    assert (OVERLAY["nameSuffix"], labels["pairs"]) == ("-acme", {"app.kubernetes.io/instance": "acme"})
    assert OVERLAY["namespace"] == manifest("kustomization.yaml")["namespace"]


def test_the_commands_of_several_organisations_apply_the_rules_once() -> None:
    rules, _, _, overlay = commands(ORGANISATIONS, "--filename").splitlines()
    assert [word for word in rules.split() if "=" in word] == [
        "--namespace=monitoring",
        "--filename=deploy/kubernetes/prometheus-rule.yaml",
    ]
    folder = Path(overlay.split()[-1])
    assert Path(os.path.normpath(ROOT / folder / OVERLAY["resources"][0])) == KUBERNETES
    [delete] = [block for block in blocks("sh") if "delete" in block]
    kinds = {manifest(file)["kind"].lower() for file in manifest("kustomization.yaml")["resources"]}
    assert set(delete.split()[-2].split(",")) == kinds - {"prometheusrule"}
    assert delete.split()[-1] == NAME


@pytest.fixture(scope="module")
def organisations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Build the overlay, for two organisations: by name and kind, what would be applied.

    kustomize is a program that Debian does not have, so this skips where there is no kubectl, in CI as well.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl not found on the PATH")
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(KUBERNETES, root / "deploy" / "kubernetes")
    built = {}
    for name in ("acme", "globex"):
        folder = root / "deploy" / "organisations" / name
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text(OVERLAY_TEXT.replace("acme", name), encoding="utf-8")
        (folder / "config.yaml").write_text(ORGANISATION_CONFIG, encoding="utf-8")
        ran = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        built[name] = {content["kind"]: content for content in yaml.safe_load_all(ran.stdout)}
    return built


def selectors(of: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return by kind what selects pods, or the Services of them."""
    return {
        "Deployment": of["Deployment"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": of["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "Service": of["Service"]["spec"]["selector"],
        "ServiceMonitor": of["ServiceMonitor"]["spec"]["selector"]["matchLabels"],
    }


def test_each_organisation_selects_its_own_and_not_the_others(organisations: dict[str, dict[str, Any]]) -> None:
    for name, built in organisations.items():
        for other, others in organisations.items():
            labels = {
                "pods": others["Deployment"]["spec"]["template"]["metadata"]["labels"],
                "services": others["Service"]["metadata"]["labels"],
            }
            for kind, selector in selectors(built).items():
                selected = labels["services" if kind == "ServiceMonitor" else "pods"]
                assert (selector.items() <= selected.items()) is (name == other), (name, kind, other)


def test_the_overlay_changes_nothing_else(organisations: dict[str, dict[str, Any]]) -> None:
    for name, built in organisations.items():
        assert set(built) == {"ConfigMap", "Deployment", "NetworkPolicy", "Service", "ServiceMonitor"}, "no rules"
        assert {content["metadata"]["name"] for content in built.values()} == {f"{NAME}-{name}"}
        assert {content["metadata"]["namespace"] for content in built.values()} == {"monitoring"}
        for kind in ("ConfigMap", "Deployment", "NetworkPolicy", "Service"):
            check_schema(built[kind])
        # Prometheus and the DNS have no label of an organisation.
        shipped = manifest("network-policy.yaml")["spec"]
        assert {key: built["NetworkPolicy"]["spec"][key] for key in ("ingress", "egress")} == {
            key: shipped[key] for key in ("ingress", "egress")
        }
        [endpoint] = built["ServiceMonitor"]["spec"]["endpoints"]
        [shipped_endpoint] = manifest("service-monitor.yaml")["spec"]["endpoints"]
        organisation = {"targetLabel": "organisation", "replacement": name}
        assert endpoint["relabelings"] == [*shipped_endpoint["relabelings"], organisation]


def test_each_organisation_has_its_own_config_and_secret(organisations: dict[str, dict[str, Any]]) -> None:
    named, _ = made_secret(commands(ORGANISATIONS, "--filename"))
    for name, built in organisations.items():
        config, credentials = built["Deployment"]["spec"]["template"]["spec"]["volumes"]
        assert config["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
        assert credentials["secret"]["secretName"] == named.replace("acme", name)
        assert built["ConfigMap"]["data"] == {"config.yaml": ORGANISATION_CONFIG}


def test_the_config_of_an_organisation_reads_the_mounted_secret(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(ORGANISATION_CONFIG, encoding="utf-8")
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(manifest("config-map.yaml")["data"]["config.yaml"], encoding="utf-8")
    assert load_config(config).api.basic_auth == load_config(shipped).api.basic_auth
    assert load_config(config).discovery.enabled


def test_the_upgrade_of_kubernetes_waits_for_the_deployment() -> None:
    diff, apply, status = map(shlex.split, commands(section("Kubernetes"), "kubectl diff").splitlines())
    assert (diff[1], apply[1]) == ("diff", "apply")
    assert diff[2:] == apply[2:] == ["--kustomize", "deploy/kubernetes"]
    assert status[3:] == [f"deployment/{manifest('deployment.yaml')['metadata']['name']}", "--namespace=monitoring"]


def test_the_drop_in_of_the_page_changes_only_the_address() -> None:
    [text] = re.findall(r"```ini\n(.*?)```", DEPLOYMENT_PAGE, flags=re.DOTALL)
    shipped = Unit.read(UNIT_FILE)
    changed = Unit((*shipped.settings, *drop_in(text))).command("ExecStart")
    assert changed == [
        "--web.listen-address=:10311" if word == "--web.listen-address=127.0.0.1:10311" else word
        for word in shipped.command("ExecStart")
    ]
    assert changed != shipped.command("ExecStart")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing")
        yield sandbox


def is_up(exporter: Exporter) -> bool:
    return exporter.scrape().get("sitecore_cdp_up") == {frozenset(): 1.0}


def shown(exporter: Exporter) -> set[str]:
    return {dict(labels)["ref"] for labels in exporter.scrape().get("sitecore_cdp_batch_poll_success", {})}


class Pod:
    """The pod of the Deployment, with its volumes in `directory` and its ports on loopback."""

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self._directory = directory
        self._sandbox = sandbox
        self._paths = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
        self.config = MountedVolume(directory / "config", self._files(manifest("config-map.yaml")["data"]))
        self.credentials = MountedVolume(
            directory / "credentials", {"client_key": CLIENT_KEY, "api_token": f"{API_TOKEN}\n"}
        )
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._health_port = listener.getsockname()[1]

    def flags(self) -> list[str]:
        """Return the flags that the container runs with: those of the image and those of the Deployment."""
        [entry_point] = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, flags=re.MULTILINE)
        replaced = {
            "--web.listen-address=:10311": "--web.listen-address=127.0.0.1:0",
            "--web.health-listen-address=:10313": f"--web.health-listen-address=127.0.0.1:{self._health_port}",
        }
        arguments = [self._here(replaced.pop(argument, argument)) for argument in container()["args"]]
        assert replaced == {}
        # Its flags come first, so that those of the Deployment win.
        program, *flags = json.loads(entry_point)
        assert program == NAME
        return [*flags, *arguments]

    def probe(self, name: str) -> str:
        """Return the URL that the kubelet asks."""
        path = container()[name]["httpGet"]["path"]
        return f"http://127.0.0.1:{self._health_port}{path}"

    def change_config(self, before: str, after: str) -> None:
        """Change the ConfigMap, and let the kubelet show it."""
        text = manifest("config-map.yaml")["data"]["config.yaml"]
        assert before in text
        self.config.write(self._files({"config.yaml": text.replace(before, after)}))

    def _files(self, data: dict[str, str]) -> dict[str, str]:
        assert list(data) == ["config.yaml"]
        host = "https://api-engage-eu.sitecorecloud.io"
        assert host in data["config.yaml"]
        return {name: self._here(text.replace(host, self._sandbox.base_url)) for name, text in data.items()}

    def _here(self, text: str) -> str:
        for name, path in self._paths.items():
            text = text.replace(path, str(self._directory / name))
        return text


def test_the_pod_takes_a_rotated_secret_without_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    pod = Pod(tmp_path, sandbox)
    with forked(pod.flags(), log=tmp_path / "exporter.log") as program:
        exporter = wait_until_listening(program)
        for probe in ("livenessProbe", "readinessProbe"):
            assert answers_ok(pod.probe(probe))
        wait_for("the batch", lambda: shown(exporter) == {REF}, programs=[program])
        assert is_up(exporter)

        sandbox.set_api_token("rotated-token")
        wait_for("the old token to fail", lambda: not is_up(exporter), programs=[program])
        assert answers_ok(pod.probe("livenessProbe")), "a restart would not help"
        pod.credentials.write({"client_key": CLIENT_KEY, "api_token": "rotated-token\n"})
        wait_for("the new token to count", lambda: is_up(exporter), programs=[program])
        assert program.output().count("msg=listening") == 1


def test_the_pod_takes_a_changed_config_map_without_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.put_batch(OTHER_REF, status="processing")
    pod = Pod(tmp_path, sandbox)
    with forked(pod.flags(), log=tmp_path / "exporter.log") as program:
        exporter = wait_until_listening(program)
        wait_for("both batches", lambda: shown(exporter) == {REF, OTHER_REF}, programs=[program])
        pod.change_config("discovery:\n  enabled: true\n", f"batches: [{OTHER_REF}]\n")
        assert shown(exporter) == {OTHER_REF}
        assert program.process.poll() is None


def test_the_health_port_of_the_pod_shows_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    pod = Pod(tmp_path, sandbox)
    with forked(pod.flags(), log=tmp_path / "exporter.log") as program:
        wait_until_listening(program)
        origin = pod.probe("livenessProbe").removesuffix("/-/healthy")
        for path in ("/", "/metrics", f"/probe?target={REF}"):
            assert requests.get(f"{origin}{path}", timeout=60).status_code == 404


def test_the_config_of_the_unit_reads_what_its_credentials_are() -> None:
    config = load_config(SYSTEMD_CONFIG)
    loaded = [credential.split(":")[0] for credential in Unit.read(UNIT_FILE).values("LoadCredential")]
    folder = Path("/run/credentials", UNIT_FILE.name)
    auth = config.api.basic_auth
    assert [auth.username_file, auth.password_file] == [folder / name for name in loaded]


def test_what_the_unit_starts_reads_its_credentials_and_reloads(sandbox: Sandbox, tmp_path: Path) -> None:
    unit = Unit.read(UNIT_FILE)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name, secret in (("client_key", CLIENT_KEY), ("api_token", API_TOKEN)):
        (credentials / name).write_text(f"{secret}\n", encoding="utf-8")
    config = tmp_path / "config.yaml"
    config.write_text(
        SYSTEMD_CONFIG.read_text(encoding="utf-8")
        .replace(f"/run/credentials/{UNIT_FILE.name}", str(credentials))
        .replace("https://api-engage-eu.sitecorecloud.io", sandbox.base_url),
        encoding="utf-8",
    )
    here = {
        f"/opt/{NAME}/bin/{NAME}": str(BIN / NAME),
        f"--config.file=/etc/{NAME}/config.yaml": f"--config.file={config}",
        "--web.listen-address=127.0.0.1:10311": "--web.listen-address=127.0.0.1:0",
    }
    # systemd hands down next to nothing of the environment.
    environment = ["env", "--ignore-environment", f"PATH={os.environ['PATH']}", f"CREDENTIALS_DIRECTORY={credentials}"]
    command = [*environment, *(here.pop(word, word) for word in unit.command("ExecStart"))]
    assert here == {}
    with running(command, log=tmp_path / "exporter.log") as program:
        exporter = wait_until_listening(program)
        wait_for("the batch", lambda: shown(exporter) == {REF}, programs=[program])
        assert is_up(exporter)
        config.write_text(f"{config.read_text(encoding='utf-8')}batches: [{OTHER_REF}]\n", encoding="utf-8")
        reload = [str(program.process.pid) if word == "$MAINPID" else word for word in unit.command("ExecReload")]
        subprocess.run(reload, check=True)
        wait_for("the reload", lambda: shown(exporter) == {REF, OTHER_REF}, programs=[program])
    assert program.process.returncode == 0
