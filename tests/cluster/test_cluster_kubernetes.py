"""The YAML parses, and says what the artifact needs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from checkpoints import write_checkpoint

from penjing.artifact import Artifact
from penjing.cluster import render_kubernetes
from penjing.cluster.kubernetes import RUNTIME_BYTES, Deployment, memory_bytes
from penjing.errors import SpecError
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("cluster")
    return quantize_checkpoint(write_checkpoint(root / "model"), root / "artifact", preset("int8"))


def documents(artifact: Artifact, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment = Deployment(name="tray", image="registry/penjing:1", volume_claim="models", **options)
    workload, service = yaml.safe_load_all(render_kubernetes(artifact, deployment))
    return workload, service


def test_deployment_and_service_find_each_other(artifact: Artifact) -> None:
    workload, service = documents(artifact, replicas=3)
    assert (workload["kind"], service["kind"]) == ("Deployment", "Service")
    template = workload["spec"]["template"]
    assert workload["spec"]["replicas"] == 3
    assert workload["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    container = template["spec"]["containers"][0]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert template["metadata"]["annotations"]["penjing/artifact"] == artifact.hash


def test_it_runs_the_command_line_that_there_is(artifact: Artifact) -> None:
    from penjing.cli.run import serve

    workload, _ = documents(artifact, artifact_path="small/tray", cores=6, api_key_secret="keys")
    arguments = workload["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["serve", "/models/small/tray"]
    assert arguments[-2:] == ["--threads", "6"]
    options = [argument for argument in arguments if argument.startswith("--")]
    assert {option[2:].replace("-", "_") for option in options} <= set(serve.__annotations__)


def test_probes_and_shutdown(artifact: Artifact) -> None:
    workload, _ = documents(artifact, grace_seconds=90)
    pod = workload["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 90
    for probe in ("startupProbe", "readinessProbe"):
        assert pod["containers"][0][probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_memory_is_weights_contexts_and_runtime(artifact: Artifact) -> None:
    """Two blocks of two KV heads of 12 int8 values and a scale, for keys and values, at 128 positions."""
    context = 128 * 2 * 2 * 2 * (12 + 4)
    assert memory_bytes(artifact, 3) == artifact.tensor_bytes + 3 * context + RUNTIME_BYTES
    workload, _ = documents(artifact, contexts=3)
    resources = workload["spec"]["template"]["spec"]["containers"][0]["resources"]
    mebibytes = int(resources["limits"]["memory"].removesuffix("Mi"))
    assert 0 <= mebibytes * 2**20 - memory_bytes(artifact, 3) < 2**20
    assert resources["requests"] == resources["limits"]


def test_secrets_are_mounted_and_never_written_out(artifact: Artifact) -> None:
    workload, _ = documents(artifact, api_key_secret="keys")
    pod = workload["spec"]["template"]["spec"]
    assert {"name": "secrets", "secret": {"secretName": "keys"}} in pod["volumes"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert all(mount["readOnly"] for mount in mounts.values())


@pytest.mark.parametrize("options", [{"name": "Tray_1"}, {"name": ""}, {"replicas": 0}, {"cores": 0}])
def test_impossible_deployments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Deployment(**{"name": "tray", "image": "i", "volume_claim": "v"} | options)
