"""What lies in `deploy`: settings exist, programs take their commands, manifests follow the published schemas.

None of it was run: there is no container engine and no cluster here, and no Helm to render the chart with.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from nutridet_core.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
OURS = ("code", "webserver", "daemon", "mlflow")
KUBERNETES = DEPLOY / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((KUBERNETES / "values.yaml").read_text(encoding="utf-8"))
MANIFESTS = [
    pytest.param(document, id=f"{file.stem}-{document['kind']}-{document['metadata'].get('name', '')}")
    for file in sorted(KUBERNETES.glob("*.yaml"))
    if file.name not in {"values.yaml", "kustomization.yaml"}
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
_ELSEWHERE = {"agent.py", "fork_server.py", "forks.py", "guard.py", "ray.py", "up.py", "worker.py"}
"""Modules that no run in a pod imports."""
_NO_TORCH = """
import importlib, sys
for name in {blocked!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""


def test_its_settings_are_those_there_are() -> None:
    for name in OURS:
        used = {key for key in SERVICES[name]["environment"] if key.startswith("NUTRIDET_")}
        assert {key.removeprefix("NUTRIDET_").lower() for key in used} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", OURS)
def test_its_commands_are_taken(name: str) -> None:
    """Each program, asked for help with the options of its service, knows all of them."""
    words = shlex.split(SERVICES[name]["command"])
    words = shlex.split(words[2].removeprefix("exec ")) if words[0] == "sh" else words
    module = {"dagster-webserver": "dagster_webserver", "dagster-daemon": "dagster._daemon"}.get(words[0], words[0])
    command = [sys.executable, "-m", module, *words[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if re.fullmatch(r"--?[a-z-]+", word)):
        assert re.search(rf"(^|\s){option}[, ]", done.stdout), option


def test_pages_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_files_it_names_are_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in dockerfile.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    mounted = [volume.split(":")[0] for volume in SERVICES["postgres"]["volumes"] if volume.startswith("./")]
    assert all((DEPLOY.parent / name).exists() for name in copied)
    assert all((DEPLOY / name).is_file() for name in mounted)


# ---------------------------------------------------------------- Kubernetes


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_follows_the_published_schemas(manifest: dict[str, Any]) -> None:
    for version in ("1.28", "1.32", "1.34"):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_container_may_do_and_use_no_more_than_it_needs(manifest: dict[str, Any]) -> None:
    for pod in _pods(manifest):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
            if manifest["kind"] in {"Deployment", "StatefulSet"}:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_secrets_are_named_and_not_written() -> None:
    for file in KUBERNETES.glob("*.yaml"):
        for entry in _entries(yaml.safe_load_all(file.read_text(encoding="utf-8"))):
            if re.search("PASSWORD|SECRET|TOKEN|TRACKING_URI|BACKEND_STORE", entry["name"]):
                assert "value" not in entry, f"{file.name}: {entry['name']}"


def test_services_and_policies_select_pods_that_there_are() -> None:
    manifests = [param.values[0] for param in MANIFESTS]
    labels = [
        found["spec"]["template"]["metadata"]["labels"] for found in manifests if "template" in found.get("spec", {})
    ]
    for found in manifests:
        selector = found["spec"]["selector"] if found["kind"] == "Service" else None
        assert selector is None or any(selector.items() <= each.items() for each in labels), found["metadata"]["name"]


def test_the_command_of_the_tracking_server_has_the_options_that_compose_has() -> None:
    """Those were taken, above."""
    (server,) = (param.values[0] for param in MANIFESTS if param.id == "mlflow-Deployment-mlflow")
    command = server["spec"]["template"]["spec"]["containers"][0]["command"]
    theirs = shlex.split(SERVICES["mlflow"]["command"])
    assert command[:2] == theirs[:2] == ["mlflow", "server"]
    assert {word for word in command if word.startswith("--")} == {word for word in theirs if word.startswith("--")}


def test_values_and_template_agree() -> None:
    """The chart's side: the folder, secret, claim and config map that runs and workers share."""
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    environment = {entry["name"]: entry["value"] for entry in code["env"]}
    assert {name.removeprefix("NUTRIDET_").lower() for name in environment} <= set(Settings.model_fields)
    mounts = {mount["name"]: mount["mountPath"] for mount in code["volumeMounts"]}
    template = yaml.safe_load((KUBERNETES / "worker-pod.yaml").read_text(encoding="utf-8"))
    worker = template["spec"]["containers"][0]
    assert mounts["home"] in {mount["mountPath"] for mount in worker["volumeMounts"]}
    assert environment["NUTRIDET_HOME"].startswith(f"{mounts['home']}/")
    assert environment["NUTRIDET_K8S_POD"] == f"{mounts['worker-pod']}/worker-pod.yaml"
    assert code["volumes"][0] == template["spec"]["volumes"][0], "one claim"
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
    assert code["volumes"][1]["configMap"]["name"] == kustomization["configMapGenerator"][0]["name"]
    files = [*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]]
    assert all((KUBERNETES / name).is_file() for name in files)
    assert [{"secretRef": secret} for secret in code["envSecrets"]] == worker["envFrom"]


def test_values_are_parts_of_pods_where_the_chart_puts_them_there() -> None:
    """Security contexts, resources, volumes: the schemas say what may stand in them."""
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    for part in (VALUES["dagsterWebserver"], VALUES["dagsterDaemon"], code):
        container = {
            "name": "a",
            "image": "b",
            "resources": part["resources"],
            "securityContext": part["securityContext"],
        }
        container |= {"volumeMounts": part.get("volumeMounts", [])}
        spec = {"securityContext": part["podSecurityContext"], "volumes": part.get("volumes", [])}
        _validate_pod({**spec, "containers": [container]})
    run = VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    _validate_pod({**run["podSpecConfig"], "containers": [{"name": "a"}]})


def test_the_instance_that_the_chart_writes_is_one_that_dagster_takes(tmp_path: Path) -> None:
    """Its template turns these values into these keys of dagster.yaml."""
    monitoring = VALUES["dagsterDaemon"]["runMonitoring"]
    pools = VALUES["concurrency"]["pools"]
    instance = {
        "concurrency": {"pools": {"default_limit": pools["defaultLimit"], "granularity": pools["granularity"]}},
        "run_monitoring": {_snake(name): value for name, value in monitoring.items()},
        "telemetry": VALUES["telemetry"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    import dagster as dg

    with dg.DagsterInstance.from_config(str(tmp_path)) as loaded:
        assert loaded.get_concurrency_config().pool_config.default_pool_limit == 1
        assert loaded.run_monitoring_enabled


def test_the_small_image_has_what_the_code_location_imports() -> None:
    """Every requirement that `code.txt` leaves out is made unimportable, then all that assets import is imported."""
    wanted = [line for line in (KUBERNETES / "code.txt").read_text().splitlines() if line and line[0] != "#"]
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    known = {re.split("[<>=[]", requirement)[0] for requirement in [*project["dependencies"], *extras]}
    assert set(wanted) <= known
    left_out = {re.split("[<>=[]", requirement)[0] for requirement in project["dependencies"]} - set(wanted)
    assert {"torch", "transformers", "trl", "peft"} <= left_out
    program = _NO_TORCH.format(blocked=sorted(_modules_of(left_out)), modules=sorted(_imported_by_assets()))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_images_are_built_from_what_is_there() -> None:
    dockerfile = (KUBERNETES / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in dockerfile.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((DEPLOY.parent / name).exists() for name in copied)
    targets = set(re.findall(r" AS (\w+)", dockerfile))
    used = {
        image for file in KUBERNETES.glob("*.yaml") for image in re.findall(r"nutridet/(\w+)[:,]", file.read_text())
    }
    assert used == {"orchestrator", "code", "worker"} and used <= targets
    extras = set(re.findall(r"\[([\w,]+)\]", dockerfile)[0].split(","))
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])


# ---------------------------------------------------------------- helpers


def _pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if manifest["kind"] == "Pod":
        yield manifest["spec"]
    elif "template" in manifest.get("spec", {}):
        yield manifest["spec"]["template"]["spec"]


def _entries(node: Any) -> Iterator[dict[str, Any]]:
    """Environment entries, wherever they stand."""
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and ("value" in node or "valueFrom" in node):
            yield node
        for value in node.values():
            yield from _entries(value)
    elif not isinstance(node, str) and hasattr(node, "__iter__"):
        for value in node:
            yield from _entries(value)


def _validate_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    kubernetes_validate.validate(json.loads(json.dumps(pod)), "1.32", strict=True)


def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


def _modules_of(distributions: set[str]) -> set[str]:
    from importlib.metadata import packages_distributions

    named = packages_distributions().items()
    return {module for module, names in named if {name.lower().replace("_", "-") for name in names} <= distributions}


def _imported_by_assets() -> set[str]:
    """Modules of this project that asset bodies, sensors and the launcher import, and the definitions themselves."""
    folder = DEPLOY.parent / "nutridet_assets"
    ours = [file for file in folder.rglob("*.py") if file.name not in {"ray.py", "agent.py", "up.py"}]
    found = {
        name for file in ours for name in re.findall(r"^\s*from (nutridet_core[\w.]*) import", file.read_text(), re.M)
    }
    return {*found, "nutridet_assets.definitions", "nutridet_assets.launchers.kubernetes"}
