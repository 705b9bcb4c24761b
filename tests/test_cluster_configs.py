"""Every file in ``cluster_configs``: it can be read, and says what the table of slices says."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.accelerators import TPUAcceleratorManager
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.compile_cases import CompileCase, estimate
from orchestrator.config_loading import load_config
from orchestrator.machines import resources_of_host
from orchestrator.topology import GENERATIONS, SliceTopology, sizes_of, slice_topology
from workers.planning import check_batch_size

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "cluster_configs"
RUNS = sorted((CONFIGS / "runs").glob("*.yaml"))
LAUNCHERS = sorted((CONFIGS / "gce").glob("*.yaml"))
KUBERAY = [*sorted((CONFIGS / "gke").glob("ray*.yaml"))]
FLOORS = ("kernels", "workers", "orchestrator")
LONGEST_LINE = 100

# What the operator knows of the fields that are used here. Others would be passed over in silence
# by older operators, and are mistakes more often than not.
_TEMPLATE = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "spec": {
            "type": "object",
            "required": ["securityContext", "containers", "volumes"],
            "additionalProperties": False,
            "properties": {
                # Kubernetes gives volumes to this group; else they are for root alone.
                "securityContext": {
                    "const": {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
                },
                "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
                "volumes": {"type": "array"},
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image", "ports", "resources", "volumeMounts"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "ports": {"type": "array"},
                            "volumeMounts": {"type": "array"},
                            "resources": {
                                "type": "object",
                                "required": ["requests", "limits"],
                                "additionalProperties": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
_START_PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
_CLUSTER = {
    "type": "object",
    "required": ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"},
        "authOptions": {"const": {"mode": "token"}},
        "headGroupSpec": {
            "type": "object",
            "required": ["rayStartParams", "template"],
            "additionalProperties": False,
            "properties": {"rayStartParams": _START_PARAMETERS, "template": _TEMPLATE},
        },
        "workerGroupSpecs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["groupName", "replicas", "numOfHosts", "rayStartParams", "template"],
                "additionalProperties": False,
                "properties": {
                    "groupName": {"type": "string"},
                    "replicas": {"type": "integer", "minimum": 1},
                    "minReplicas": {"type": "integer"},
                    "maxReplicas": {"type": "integer"},
                    "numOfHosts": {"type": "integer", "minimum": 1},
                    "rayStartParams": _START_PARAMETERS,
                    "template": _TEMPLATE,
                },
            },
        },
    },
}
_JOB = {
    "type": "object",
    "required": ["entrypoint", "rayClusterSpec"],
    "additionalProperties": False,
    "properties": {
        "entrypoint": {"type": "string"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer"},
        "backoffLimit": {"type": "integer"},
        "rayClusterSpec": _CLUSTER,
    },
}


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def run_of(name: str) -> Path:
    """The run configuration that a cluster's file is for: its name is the end of the file's."""
    path = CONFIGS / "runs" / f"{name}.yaml"
    assert path.exists(), f"no run configuration {path.name}"
    return path


def topology_of_run(name: str) -> SliceTopology:
    topology = load_config(run_of(name)).cluster.slice_topology
    assert topology is not None
    return topology


def test_every_file_is_looked_at() -> None:
    files = {path for path in CONFIGS.rglob("*") if path.is_file()}
    others = {CONFIGS / "gke" / "Dockerfile", CONFIGS / "gke" / "storage.yaml"}
    dashboard = CONFIGS / "grafana" / "emberay.json"  # see tests/orchestrator/test_prometheus.py
    assert files == {*RUNS, *LAUNCHERS, *KUBERAY, *others, dashboard}
    assert len(RUNS) >= 6
    assert len(LAUNCHERS) >= 2
    assert {path.name.partition("-")[0] for path in KUBERAY} == {"raycluster", "rayjob"}


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_run_configurations_can_be_run(path: Path) -> None:
    config = load_config(path)
    for hosts in (config.hosts, *config.elastic.sizes):
        check_batch_size(config.run_spec("data", "folder"), hosts)
    topology = config.cluster.slice_topology
    if topology is None:
        assert config.platform in ("cpu", "gpu")
        needs = resources_of_host(config.cluster, config.devices_per_host)
        assert needs.get("GPU", 0) == (config.devices_per_host if config.platform == "gpu" else 0)
        assert config.cluster.is_gang == (path.stem != "laptop")
        several = "cluster" in path.stem
        assert several == (config.cluster.placement == "STRICT_SPREAD")
        assert not several or (config.hosts > 1 and config.cluster.address == "auto")
        return
    assert path.stem.removeprefix("multislice-") == topology.name
    assert (topology.slices > 1) == path.stem.startswith("multislice-")
    case = CompileCase(config.program, config.parameters, config.batch_size, topology, {})
    assert estimate(case.plan(), topology).fits
    # The comment on top says what the table says.
    comment = path.read_text().partition("\n")[0]
    slices = f"{topology.slices} × " if topology.slices > 1 else ""
    assert f"{slices}{topology.hosts_per_slice} hosts × {topology.chips_per_host} chips" in comment
    assert f"{topology.devices} devices, {topology.sparsecores} SparseCores" in comment


def test_there_is_a_run_configuration_of_every_generation() -> None:
    named = {path.stem for path in RUNS}
    assert {"laptop", "gpu-node", "gpu-cluster", "cpu-cluster"} < named
    for generation in GENERATIONS:
        assert any(f"{generation}-{size}" in named for size in sizes_of(generation))


@pytest.mark.parametrize("path", LAUNCHERS, ids=name_of)
def test_launcher_files_are_accepted_by_ray_and_agree_with_the_table(path: Path) -> None:
    topology = topology_of_run(path.stem)
    config = read(path)
    validate_config(prepare_config(copy.deepcopy(config)))
    types = config["available_node_types"]
    # By this, Ray tells the two kinds of machines.
    assert "machineType" in types["head"]["node_config"]
    tpu = types["tpu"]
    assert set(tpu["node_config"]) == {"acceleratorType", "runtimeVersion"}
    accelerator = tpu["node_config"]["acceleratorType"]
    assert TPUAcceleratorManager.is_valid_tpu_accelerator_type(accelerator)
    assert slice_topology(accelerator).name == topology.name
    assert tpu["min_workers"] == tpu["max_workers"] == config["max_workers"] == topology.slices
    assert tpu["resources"] == topology.ray_resources
    assert topology.generation.name in tpu["node_config"]["runtimeVersion"].replace("tpuv5", "v5p")
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for start in (start for start in starts if "ray start" in start):
        assert "RAY_AUTH_MODE=token" in start
        assert "EMBERAY_CACHE=/mnt/runs/cache" in start, "else each host compiles for itself"
    assert any("--dashboard-host=127.0.0.1" in start for start in starts)
    hosts = f"{topology.hosts_per_slice} hosts"
    assert hosts in path.read_text().partition("\n")[0]


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_kuberay_files_agree_with_the_table(path: Path) -> None:
    kind, _, name = path.stem.partition("-")
    topology = topology_of_run(name)
    manifest = read(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"] == {"raycluster": "RayCluster", "rayjob": "RayJob"}[kind]
    assert manifest["metadata"] == {"name": f"emberay-{name}"}
    jsonschema.validate(manifest["spec"], _JOB if kind == "rayjob" else _CLUSTER)
    cluster = manifest["spec"]["rayClusterSpec"] if kind == "rayjob" else manifest["spec"]
    assert cluster["rayVersion"] == pinned("ray")
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == topology.slices
    assert group["numOfHosts"] == topology.hosts_per_slice
    pod = group["template"]["spec"]
    assert pod["nodeSelector"] == topology.gke_labels
    container = pod["containers"][0]
    for amounts in container["resources"].values():
        assert amounts["google.com/tpu"] == str(topology.chips_per_host)
    # Kubernetes refuses requests of such devices that are not their limits.
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"name": "mxla", "containerPort": 8081} in container["ports"]
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        spec = template["spec"]
        claims = {volume["name"]: volume["persistentVolumeClaim"] for volume in spec["volumes"]}
        assert claims == {"runs": {"claimName": storage()["metadata"]["name"]}}
        assert spec["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/mnt/runs"}]
        assert spec["containers"][0]["image"] == image()


@pytest.mark.parametrize("path", [path for path in KUBERAY if "rayjob" in path.name], ids=name_of)
def test_jobs_run_what_is_there(path: Path) -> None:
    words = read(path)["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "orchestrator", "train"]
    name = path.stem.partition("-")[2]
    assert (ROOT / words[4]) == run_of(name)
    assert words[5:] == ["--run-dir", f"/mnt/runs/{name}", "--resume"]


def test_the_image_is_that_of_the_manifests_and_of_the_pinned_ray() -> None:
    lines = (CONFIGS / "gke" / "Dockerfile").read_text().splitlines()
    assert f"-t {image()} ." in lines[1]
    assert f"FROM rayproject/ray:{pinned('ray')}-py312-cpu" in lines
    assert image().endswith(f":{project()['version']}")
    assert "ENV EMBERAY_CACHE=/mnt/runs/cache" in lines, "else each pod compiles for itself"


def test_jobs_that_are_stopped_are_left_the_time_to_save() -> None:
    grace = load_config().failures.preemption_grace
    for path in (*LAUNCHERS, CONFIGS / "gke" / "Dockerfile"):
        (seconds,) = re.findall(r"\bRAY_JOB_STOP_WAIT_TIME_S=(\d+)", path.read_text())
        assert int(seconds) > grace, path


def test_what_jobs_need_is_brought_to_the_cluster() -> None:
    """Neither rsync nor docker leaves out a file of ours, such as those in cluster_configs/runs."""
    folders = (*FLOORS, "cluster_configs")
    ours = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT) for path in ours if "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT) for path in RUNS} <= names
    for path in LAUNCHERS:
        for pattern in read(path)["rsync_exclude"]:
            # A folder: at the top if a slash comes first, else anywhere (rsync's manual, "pattern
            # matching rules"). "**/runs/**" would be any folder of the name.
            assert re.fullmatch(r"/?[.\w]+/", pattern), pattern
            name = pattern.strip("/")
            inside = (1,) if pattern.startswith("/") else range(1, 9)
            assert not [
                one for one in names if any(one.parts[n - 1 : n] == (name,) for n in inside)
            ]
    left_out = {
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if "*" not in line
    }
    assert ".venv" in left_out
    assert not {path.parts[0] for path in names} & left_out


def test_the_storage_can_be_written_by_all_hosts() -> None:
    claim = storage()
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("path", [*RUNS, *LAUNCHERS, *KUBERAY], ids=name_of)
def test_files_are_explained_and_their_lines_short(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert all(len(line) <= LONGEST_LINE for line in path.read_text().splitlines())
    page = (ROOT / "docs" / "pods.md").read_text()
    folder = f"cluster_configs/{path.parent.name}"
    assert folder in page, f"docs/pods.md does not speak of {folder}"
    assert path.stem in page, f"docs/pods.md does not speak of {path.name}"


def test_what_has_to_be_replaced_is_told() -> None:
    """Words in capitals stand for something of the user's own."""
    page = (ROOT / "docs" / "pods.md").read_text()
    for path in (*LAUNCHERS, *KUBERAY):
        for word in re.findall(r"\b(?:PROJECT|FILESTORE_ADDRESS|REGISTRY)\b", path.read_text()):
            assert f"`{word}`" in page


def image() -> str:
    (found,) = {
        spec["containers"][0]["image"] for path in KUBERAY for spec in _pods(read(path)["spec"])
    }
    return found


def _pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def storage() -> Any:
    return read(CONFIGS / "gke" / "storage.yaml")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(package: str) -> str:
    (version,) = [
        line.partition("==")[2]
        for line in project()["dependencies"]
        if re.match(rf"{package}(\[.*\])?==", line)
    ]
    return version
