"""A worker in a pod: what it reports arrives, and no pod is left however it ends.

The cluster is `kubernetes_server`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import kubernetes_validate
import pytest
from kubernetes import client, config

from nutridet_assets.assets.dataset import nutrition_dataset
from nutridet_assets.launchers import active_launcher, kubernetes, module_of
from nutridet_assets.launchers.client import worker_variables
from nutridet_assets.launchers.pod import read_template, worker_pod
from nutridet_assets.resources import Worker
from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import read_manifest
from nutridet_core.errors import SettingsError
from nutridet_core.settings import Settings
from tests.kubernetes_server import VERSION, Node, kubernetes_server
from tests.launched import JOB, launched
from tests.services import until

TEMPLATE = Path(__file__).parents[1] / "deploy" / "kubernetes" / "worker-pod.yaml"
_LONG = "import subprocess, sys, time\nsubprocess.Popen(['sleep', '600'])\nprint('up', flush=True)\ntime.sleep(600)"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A cluster, and the settings that lead to it."""
    monkeypatch.setenv("NUTRIDET_LAUNCHER", "k8s")
    monkeypatch.setenv("NUTRIDET_K8S_POD", str(TEMPLATE))
    monkeypatch.setenv("NUTRIDET_HOME", "/data/nutridet")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_server(tmp_path) as (node, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield node


# ---------------------------------------------------------------- the life of a pod


def test_a_result_comes_back_through_a_log_that_breaks_off(node: Node) -> None:
    node.unavailable, node.unschedulable, node.breaks = 2, 2, 3
    body = "def job():\n    for n in range(20): print('photo', n, flush=True)\n    return {'photos': 20}\n"
    report, log = launched(JOB + body + "raise SystemExit(work(job))")
    assert report.exit_code == 0, report.tail
    assert report.messages == ({"result": {"photos": 20}},)
    photos = [line for line in log if line.startswith("photo ")]
    assert photos == [f"photo {n}" for n in range(20)], "none is lost, none comes twice"
    assert any("Insufficient nvidia.com/gpu" in line for line in log), "it says what the pod waits for"
    assert node.pods == {}


def test_a_failed_audit_brings_its_evidence(node: Node) -> None:
    """Its exit code is not 0, at which Dagster's own client loses the message."""
    body = "def job(): raise AuditError('label_audit: pads in the loss', evidence={'row': 0})\n"
    report, _ = launched(JOB + body + "raise SystemExit(work(job))")
    assert report.exit_code == 1
    assert report.messages == ({"failed_audits": {"row": 0}, "text": "label_audit: pads in the loss"},)
    assert node.pods == {}


def test_a_killed_worker_is_named_as_such(node: Node) -> None:
    report, _ = launched("import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    assert report.ending.startswith("was killed by SIGKILL")
    assert "last words" in report.tail and "OOMKilled" in report.tail


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_pod_is_left_by_a_step_that_is_cancelled_or_killed(node: Node, sent: signal.Signals) -> None:
    """The step's process is this one's child: it starts the launcher as `launch` does."""
    command = [*active_launcher().command, "-c", _LONG]
    step = (
        "import os, sys\nfrom nutridet_assets.launchers.processes import running\n"
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "own = {'NUTRIDET_LAUNCHER_PID': str(os.getpid())}\n"
        f"with running({command!r}, {{**os.environ, **own}}) as process: process.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", step])
    until(lambda: any(pod.process and pod.lines for pod in node.pods.values()))
    (pod,) = node.pods.values()
    process.send_signal(sent)
    process.wait()
    until(lambda: node.pods == {})
    assert pod.process is not None and pod.process.poll() is not None


def test_a_pod_that_cannot_start_fails_with_its_reason(node: Node) -> None:
    node.waiting = "ImagePullBackOff"
    report, _ = launched("pass")
    assert report.exit_code == 1
    assert "ImagePullBackOff" in report.tail and "not found" in report.tail
    assert node.pods == {}


def test_a_deleted_pod_fails_and_says_so(node: Node) -> None:
    code = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    process = subprocess.Popen([*active_launcher().command, "-c", code], text=True, stderr=subprocess.PIPE)
    until(lambda: any(pod.lines for pod in node.pods.values()))
    name, pod = next(iter(node.pods.items()))
    pod.end(0)
    del node.pods[name]
    _, error = process.communicate()
    assert process.returncode == 1
    assert f"pod {name} was deleted" in error


def test_a_pod_on_a_lost_node_is_not_waited_for(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubernetes keeps it until the node comes back or someone forces it; the step must end with its reason."""
    monkeypatch.setattr(kubernetes, "_GRACE", 0)
    monkeypatch.setattr(kubernetes, "_PATIENCE_SECONDS", 0.1)
    node.lost = True
    config.load_kube_config(os.environ["KUBECONFIG"])  # a new process would find it by itself
    pod = kubernetes.Pod(client.CoreV1Api(), "food", "worker")
    manifest = worker_pod(read_template(TEMPLATE), ["-c", "pass"], worker_variables(), 0, None)
    manifest["metadata"]["name"] = pod.name
    with pytest.raises(ZeroDivisionError), pod.created(manifest):
        raise ZeroDivisionError
    assert "pod worker may still be there: it does not end" in capsys.readouterr().err
    assert list(node.pods) == ["worker"]


def test_a_refused_pod_fails_with_the_words_of_the_server(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(TEMPLATE.read_text().replace("enableServiceLinks: false", "enableServiceLinks: perhaps"))
    monkeypatch.setenv("NUTRIDET_K8S_POD", str(template))
    report, _ = launched("pass")
    assert report.exit_code == 1
    assert "the API server refuses the worker's pod: 422" in report.tail and "enableServiceLinks" in report.tail


@pytest.mark.slow
def test_an_asset_is_made_in_a_pod_with_the_settings_of_its_run(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset as it is; all that the pod knows of this process's settings stands in its manifest."""
    home = tmp_path / "home"
    template = tmp_path / "pod.yaml"
    template.write_text(TEMPLATE.read_text().replace("mountPath: /data}", f"mountPath: {tmp_path}}}"))
    settings = {"HOME": str(home), "K8S_POD": str(template), "SOURCE": "generated:12", "WORKER_GPUS": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"NUTRIDET_{name}", value)
    made = dg.materialize([nutrition_dataset], resources={"worker": Worker()}, instance=dg.DagsterInstance.ephemeral())
    assert made.success
    manifest = read_manifest(Layout(Settings().artifacts).dataset, kind="dataset")
    assert manifest.facts["splits"]
    assert len(node.seen) == 1 and node.pods == {}


# ---------------------------------------------------------------- the manifest


def test_the_pod_follows_the_published_schema_and_holds_no_secret(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_TRACKING_URI", "postgresql+psycopg2://nutridet:hush@db/mlflow")
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", "https://hooks.example.org/hush")
    monkeypatch.setenv("NUTRIDET_DAGSTER_STORAGE", "postgresql+psycopg2://nutridet:hush@db/dagster")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("NUTRIDET_PROFILE", "qwen2-vl-7b")
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "dagster-run-1", "uid": "1"}
    arguments = ["-m", module_of("score_baseline"), "score_baseline"]
    pod = worker_pod(read_template(TEMPLATE), arguments, {**worker_variables(), "NUTRIDET_RUN_ID": "1"}, 2, owner)
    for version in ("1.28", VERSION, "1.34"):
        kubernetes_validate.validate(pod, version, strict=True)
    assert "hush" not in json.dumps(pod)
    container = pod["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["NUTRIDET_PROFILE"] == "qwen2-vl-7b" and environment["NUTRIDET_HOME"] == "/data/nutridet"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["spec"]["restartPolicy"] == "Never" and pod["metadata"]["ownerReferences"] == [owner]
    assert pod["metadata"]["name"].startswith("nutridet-score-baseline-")


def test_a_password_that_no_secret_brings_is_an_error(node: Node) -> None:
    template = read_template(TEMPLATE)
    del template["spec"]["containers"][0]["envFrom"]
    variables = {**worker_variables(), "NUTRIDET_TRACKING_URI": "postgresql+psycopg2://nutridet:hush@db/mlflow"}
    with pytest.raises(SettingsError, match="holds a password") as caught:
        worker_pod(template, ["-c", "pass"], variables, 0)
    assert "hush" not in str(caught.value)
    variables["NUTRIDET_TRACKING_URI"] = "http://mlflow:5000"
    pod = worker_pod(template, ["-c", "pass"], variables, 0)
    assert {"name": "NUTRIDET_TRACKING_URI", "value": "http://mlflow:5000"} in pod["spec"]["containers"][0]["env"]


def test_a_home_that_the_pod_does_not_mount_is_an_error(node: Node) -> None:
    with pytest.raises(SettingsError, match="mounts nothing at /database"):
        worker_pod(read_template(TEMPLATE), ["-c", "pass"], {"NUTRIDET_HOME": "/database"}, 1)


@pytest.mark.parametrize("text", ["kind: Deployment", "kind: Pod", "[", "kind: Pod\nspec: {containers: [{name: a}]}"])
def test_what_is_no_pod_template_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"pod\.yaml"):
        read_template(file)


def test_several_gpus_train_with_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_LAUNCHER", "k8s")
    assert module_of("train_experiments") == "nutridet_assets.worker"
    monkeypatch.setenv("NUTRIDET_WORKER_GPUS", "4")
    assert module_of("train_experiments") == "nutridet_assets.agent"
    assert module_of("score_baseline") == "nutridet_assets.worker"
