"""A Kubernetes Deployment and Service for an artifact, sized by the artifact's own numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from penjing.artifact import Artifact
from penjing.errors import SpecError
from penjing.measure.cost import kv_bytes_per_token

RUNTIME_BYTES = 512 << 20  # interpreter, libraries, activations and logits
MEBIBYTE = 1 << 20
PORT = 8000
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
START_SECONDS_PER_GIB = 10  # reading and checking weights from a slow network volume


@dataclass(frozen=True)
class Deployment:
    """What the cluster must know beside the artifact.

    name: of the deployment and service. image: holds `penjing`. volume_claim: a PersistentVolumeClaim, with
    the artifact at `artifact_path` in it. contexts: full contexts to keep in memory. api_key_secret: a Secret
    whose key `api-keys` lists the accepted keys.
    """

    name: str
    image: str
    volume_claim: str
    artifact_path: str = "."
    replicas: int = 1
    cores: int = 4
    contexts: int = 8
    grace_seconds: int = 60
    api_key_secret: str | None = None

    def __post_init__(self) -> None:
        if not LABEL.fullmatch(self.name):
            raise SpecError(
                f"name {self.name!r}: Kubernetes wants lower case letters, digits and inner dashes"
            )
        if min(self.replicas, self.cores, self.contexts, self.grace_seconds) < 1:
            raise SpecError("deployment: replicas, cores, contexts and grace_seconds must each be at least 1")


def render_kubernetes(artifact: Artifact, deployment: Deployment) -> str:
    """Two YAML documents: a Deployment that runs `penjing serve`, and the Service in front of it.

    Memory is the artifact's bytes, the keys and values of the contexts, and the runtime. SIGTERM drains: the
    pod has the grace period to finish what it answers, and /health turns it away from new requests meanwhile.
    """
    labels = {"app.kubernetes.io/name": "penjing", "app.kubernetes.io/instance": deployment.name}
    pod = {
        "terminationGracePeriodSeconds": deployment.grace_seconds,
        "containers": [container(artifact, deployment)],
        "volumes": volumes(deployment),
    }
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment.name, "labels": labels},
        "spec": {
            "replicas": deployment.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"penjing/artifact": artifact.hash}},
                "spec": pod,
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": deployment.name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    text: str = yaml.safe_dump_all([workload, service], sort_keys=False)
    return text


def memory_bytes(artifact: Artifact, contexts: int) -> int:
    """What serving needs: weights, keys and values of `contexts` full contexts, and the runtime."""
    config = artifact.config
    kv = sum(kv_bytes_per_token(config, block) for block in config.blocks) * config.max_positions
    return artifact.tensor_bytes + contexts * kv + RUNTIME_BYTES


def container(artifact: Artifact, deployment: Deployment) -> dict[str, Any]:
    """The serving container."""
    arguments = ["serve", f"/models/{deployment.artifact_path}", "--host", "0.0.0.0", "--port", str(PORT)]
    mounts: list[dict[str, Any]] = [{"name": "models", "mountPath": "/models", "readOnly": True}]
    if deployment.api_key_secret is not None:
        arguments += ["--api-key-file", "/secrets/api-keys"]
        mounts.append({"name": "secrets", "mountPath": "/secrets", "readOnly": True})
    memory = f"{math.ceil(memory_bytes(artifact, deployment.contexts) / MEBIBYTE)}Mi"
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5}
    start_seconds = 60 + START_SECONDS_PER_GIB * math.ceil(artifact.tensor_bytes / (1 << 30))
    return {
        "name": "penjing",
        "image": deployment.image,
        "command": ["penjing"],
        "args": [*arguments, "--threads", str(deployment.cores)],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {"cpu": str(deployment.cores), "memory": memory},
            "limits": {"cpu": str(deployment.cores), "memory": memory},
        },
        "startupProbe": {**probe, "failureThreshold": math.ceil(start_seconds / 5)},
        "readinessProbe": {**probe, "failureThreshold": 1},
        "volumeMounts": mounts,
    }


def volumes(deployment: Deployment) -> list[dict[str, Any]]:
    """Where the artifact and the keys come from."""
    found: list[dict[str, Any]] = [
        {"name": "models", "persistentVolumeClaim": {"claimName": deployment.volume_claim, "readOnly": True}}
    ]
    if deployment.api_key_secret is not None:
        found.append({"name": "secrets", "secret": {"secretName": deployment.api_key_secret}})
    return found
