"""deploy/kubernetes: against the schemas of Kubernetes itself, KEDA's by hand, and that the parts name each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launch_worker.store import keys

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
#: Files of the kustomization, which also names the folder of Redis' users.
FILES = [name for name in KUSTOMIZATION["resources"] if name != "../redis"]
#: Files for those who take them in: what opens Redis to other namespaces, and metrics.
OPTIONAL = ("direct.yaml", "metrics.yaml")
MANIFESTS: list[dict[str, Any]] = [
    manifest for name in (*FILES, *OPTIONAL) for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
QUEUES = ("default", "gpu")


def of_kind(kind: str, *, manifests: list[dict[str, Any]] = MANIFESTS) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def is_keda(manifest: dict[str, Any]) -> bool:
    return str(manifest["apiVersion"]).startswith("keda.sh/")


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of each thing that makes pods."""
    made = {**of_kind("Deployment"), **of_kind("StatefulSet")}
    pods = [(name, manifest["spec"]["template"]["spec"]) for name, manifest in made.items()]
    return [(name, pod, container) for name, pod in pods for container in pod["containers"]]


def validate(manifest: dict[str, Any]) -> None:
    for version in ("1.30", str(kubernetes_validate.latest_version())):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(
    "manifest",
    [manifest for manifest in MANIFESTS if not is_keda(manifest)],
    ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}",
)
def test_each_manifest_is_what_kubernetes_knows(manifest: dict[str, Any]) -> None:
    validate(manifest)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = of_kind("Deployment")["beat"] | {"spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(wrong)


def test_every_file_is_part_of_the_kustomization() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {*FILES, *OPTIONAL, *KUSTOMIZATION["configurations"]}


def test_kustomize_builds_it_and_leaves_selectors_alone(tmp_path: Path) -> None:
    """Where kubectl is here, which has kustomize; its output is checked like the files."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl here")
    shutil.copytree(FOLDER, tmp_path / "k")
    shutil.copytree(FOLDER.parent / "redis", tmp_path / "redis")
    shutil.copy(FOLDER / "secrets.env.example", tmp_path / "k" / "secrets.env")
    built = subprocess.run([kubectl, "kustomize", tmp_path / "k"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    manifests = list(yaml.safe_load_all(built.stdout))
    for manifest in manifests:
        if not is_keda(manifest):
            validate(manifest)
    # Its secret has a name with a hash, and everything that names it names that.
    (secret,) = of_kind("Secret", manifests=manifests)
    assert secret.startswith("launch-secrets-")
    assert not re.search(r"name: launch-secrets$", built.stdout, flags=re.MULTILINE)
    pods = of_kind("Deployment", manifests=manifests)["worker-gpu"]["spec"]["template"]["metadata"]["labels"]
    assert pods["app.kubernetes.io/part-of"] == "launch-worker"
    policies = of_kind("NetworkPolicy", manifests=manifests)
    assert "redis-direct" not in policies
    [ours, keda] = policies["redis"]["spec"]["ingress"][0]["from"]
    assert ours == {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "launch-worker"}}}
    assert keda["podSelector"]["matchLabels"] == {"app": "keda-operator"}
    # Redis is started anew when the users change.
    (users,) = of_kind("ConfigMap", manifests=manifests)
    (volume,) = of_kind("StatefulSet", manifests=manifests)["redis"]["spec"]["template"]["spec"]["volumes"]
    assert users.startswith("launch-redis-users-")
    assert volume["configMap"]["name"] == users
    assert of_kind("ScaledObject", manifests=manifests)["worker-gpu"]["spec"]["triggers"] == triggers("gpu")


# -- KEDA, whose schemas nobody here carries -----------------------------------------------------------------------


def triggers(queue: str) -> list[dict[str, Any]]:
    """As they must be: a list of each priority, the keys that our scripts write."""
    return [
        {
            "type": "redis",
            "authenticationRef": {"name": "launch-redis"},
            "metadata": {
                "address": "redis.launch-worker.svc:6379",
                "listName": queue_list,
                "listLength": "1",
                "activationListLength": "0",
            },
        }
        for queue_list in keys.queue_lists(queue)
    ]


def test_each_queue_is_scaled_by_what_waits_at_each_priority() -> None:
    scaled = of_kind("ScaledObject")
    assert set(scaled) == {f"worker-{queue}" for queue in QUEUES}
    for queue in QUEUES:
        manifest = scaled[f"worker-{queue}"]
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        assert manifest["apiVersion"] == "keda.sh/v1alpha1"
        spec = dict(manifest["spec"])
        assert spec.pop("triggers") == triggers(queue)
        target = spec.pop("scaleTargetRef")
        assert target == {"name": f"worker-{queue}"}
        assert target["name"] in of_kind("Deployment")
        behaviour = spec.pop("advanced")["horizontalPodAutoscalerConfig"]["behavior"]
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "x"},
            "spec": {"maxReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "x"}, "behavior": behaviour},
        }
        # That part is Kubernetes' own.
        validate(autoscaler)
        assert set(spec) == {"minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"}
        assert all(isinstance(value, int) and value >= 0 for value in spec.values())
        assert spec["minReplicaCount"] < spec["maxReplicaCount"]


def test_keda_logs_in_with_the_password_of_the_secret() -> None:
    (manifest,) = of_kind("TriggerAuthentication").values()
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["spec"] == {
        "secretTargetRef": [
            {"parameter": "username", "name": "launch-secrets", "key": "SCALER_USER"},
            {"parameter": "password", "name": "launch-secrets", "key": "SCALER_PASSWORD"},
        ]
    }


# -- the parts name each other -------------------------------------------------------------------------------------


def test_every_secret_that_is_named_is_in_the_example() -> None:
    lines = (FOLDER / "secrets.env.example").read_text().split()
    known = {line.partition("=")[0] for line in lines}
    named = set(
        re.findall(
            r"key: ([A-Z_]+)$",
            "".join((FOLDER / name).read_text() for name in FILES),
            re.MULTILINE,
        )
    )
    assert named == known
    assert [generator["name"] for generator in KUSTOMIZATION["secretGenerator"]] == ["launch-secrets"]


def test_every_service_and_budget_selects_pods_that_there_are() -> None:
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in (*of_kind("Deployment").values(), *of_kind("StatefulSet").values())
    ]
    selectors = [manifest["spec"]["selector"] for manifest in of_kind("Service").values()]
    selectors += [manifest["spec"]["selector"]["matchLabels"] for manifest in of_kind("PodDisruptionBudget").values()]
    selectors += [manifest["spec"]["selector"]["matchLabels"] for manifest in of_kind("Deployment").values()]
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels), selector


def test_a_worker_that_shall_go_has_the_time_that_its_drain_takes() -> None:
    for queue in QUEUES:
        pod = of_kind("Deployment")[f"worker-{queue}"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        arguments = container["args"]
        assert arguments[:3] == ["worker", "-Q", queue]
        drain = re.fullmatch(r"(\d+)m", arguments[arguments.index("--drain-timeout") + 1])
        assert drain is not None
        assert int(drain[1]) * 60 < pod["terminationGracePeriodSeconds"]
        assert f"worker-{queue}" in of_kind("PodDisruptionBudget")


def test_probes_are_those_that_there_are_and_an_outage_of_redis_restarts_nobody() -> None:
    for name, _, container in containers():
        asked = {kind: probe["httpGet"]["path"] for kind, probe in probes(container).items() if "httpGet" in probe}
        assert set(asked.values()) <= {"/live", "/ready"}
        assert all(path == "/live" or kind == "readinessProbe" for kind, path in asked.items()), name
        if container["name"] == "worker":
            assert set(asked) == {"startupProbe", "livenessProbe", "readinessProbe"}
            [address] = [one["value"] for one in container["env"] if one["name"] == "LAUNCH_HEALTH_ADDRESS"]
            assert address == f"0.0.0.0:{container['ports'][0]['containerPort']}"


def test_no_program_but_the_worker_has_its_login_where_jobs_are() -> None:
    """What is executed in a pod has the container's environment, and jobs are of the same user."""
    for name, pod, container in containers():
        if container["name"] == "worker":
            assert not any("exec" in probe for probe in probes(container).values()), name
            assert "lifecycle" not in container, name
            assert "shareProcessNamespace" not in pod, name


def probes(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {kind: probe for kind, probe in container.items() if kind.endswith("Probe")}


def test_pods_are_unprivileged_and_know_nothing_of_the_cluster() -> None:
    for name, pod, container in containers():
        assert pod["automountServiceAccountToken"] is False, name
        # Else a Service's name could set a variable that we read.
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert "memory" in container["resources"]["limits"], name


def test_redis_keeps_what_it_acknowledged_and_listens_to_few() -> None:
    (redis,) = of_kind("StatefulSet")["redis"]["spec"]["template"]["spec"]["containers"]
    for setting in ("appendonly yes", "maxmemory 1gb", "maxmemory-policy noeviction", "user default off"):
        assert setting in redis["args"][0]
    (rule,) = of_kind("NetworkPolicy")["redis"]["spec"]["ingress"]
    assert all(peer for peer in rule["from"])
    assert rule["ports"] == [{"port": "redis"}]


def test_the_server_is_one_pod_with_a_database_outside_of_it() -> None:
    spec = of_kind("Deployment")["server"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["replicas"] == 1
    assert (container["command"], container["args"][0]) == (["launch-worker"], "server")
    assert "LAUNCH_DATABASE_URL" in {variable["name"] for variable in container["env"]}
