"""The files for Ray's cluster launcher, run by the launcher itself against a Google in memory.

Nothing is shown of what needs the real one: that there is room, that images have what they are
said to have, and that commands succeed there.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import yaml
from ray.autoscaler._private import commands, providers
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.gcp import config as gcp_config
from ray.autoscaler._private.gcp import node as gcp_node
from ray.autoscaler._private.gcp import node_provider
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler

from orchestrator.topology import SliceTopology, slice_topology
from tests.google_cloud import GoogleCloud, Shell, description

ROOT = Path(__file__).parents[1]
# Made by a generator, with nothing for a type checker to see.
states: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
instances: Any = importlib.import_module("ray.core.generated.instance_manager_pb2")
FILES = sorted((ROOT / "cluster_configs" / "gce").glob("*.yaml"))


@dataclass
class Launch:
    """A cluster that ``ray up`` made, so far as anything is there to be made."""

    topology: SliceTopology
    config: dict[str, Any]
    google: GoogleCloud
    shell: Shell
    folder: Path
    autoscalers: list[StandardAutoscaler] = field(default_factory=list)

    def close(self) -> None:
        """Wait for the threads that still talk to Google."""
        for autoscaler in self.autoscalers:
            deadline = time.monotonic() + 30
            while autoscaler.pending_launches.value:
                assert time.monotonic() < deadline, "a launch does not end"
                time.sleep(0.02)
            for updater in autoscaler.updaters.values():
                updater.join(30)
                assert not updater.is_alive()

    def ray_start(self, address: str) -> tuple[list[str], dict[str, str]]:
        """Run what a machine would run, with a ``ray`` that tells its words and variables."""
        # Ray may start a host again that it has not heard of yet; it says the same.
        (script,) = set(self.shell.scripts(address, "ray start"))
        ray = self.folder / "emberay" / ".venv" / "bin" / "ray"
        ray.parent.mkdir(parents=True, exist_ok=True)
        ray.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\necho --variables--\nenv -0\n")
        ray.chmod(0o755)
        environment = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        # A shell of this machine may not open as many files as one over there.
        told = subprocess.run(
            ["bash", "-c", f"ulimit() {{ :; }}\n{script}"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        words, _, variables = told.partition("--variables--\n")
        pairs = (pair.partition("=") for pair in variables.split("\0") if pair)
        return words.split(), {name: value for name, _, value in pairs}


def head_autoscaler(launch: Launch) -> tuple[StandardAutoscaler, LoadMetrics]:
    """What the head starts, with the configuration that it was sent."""
    provider = node_provider.GCPNodeProvider(
        launch.config["provider"], launch.config["cluster_name"]
    )
    _, sent = commands._set_up_config_for_head_node(copy.deepcopy(launch.config), provider, False)
    config = json.loads(Path(sent.name).read_text())
    # On the head, what is sent on to slices lies where it was put.
    folder = launch.folder / "sources"
    shutil.copy(launch.config["auth"]["ssh_private_key"], launch.folder / "ray_bootstrap_key.pem")
    config["file_mounts"] = dict.fromkeys(config["file_mounts"], str(folder))
    load = LoadMetrics()
    gcs: Any = MagicMock()
    autoscaler = StandardAutoscaler(
        lambda: copy.deepcopy(config),
        load,
        gcs_client=gcs,
        max_failures=0,
        process_runner=launch.shell,
        update_interval_s=0,
    )
    launch.autoscalers.append(autoscaler)
    return autoscaler, load


def until(autoscaler: StandardAutoscaler, google: GoogleCloud, done: Callable[[], bool]) -> None:
    """Let the autoscaler take its turns until something is so: its threads need some time."""
    deadline = time.monotonic() + 30
    while not done():
        assert not google.refused
        assert time.monotonic() < deadline, "the autoscaler does not get on"
        # It lists the nodes before it looks at what is being launched, so what is launched in
        # between it would launch again.
        if not autoscaler.pending_launches.value:
            autoscaler.update()
        time.sleep(0.02)


def up_to_date(made: dict[str, Any]) -> bool:
    return made["labels"].get("ray-node-status") == "up-to-date"


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def launch(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launch]:
    """``ray up`` of one of the files, and its parts on the head, with a Google in memory."""
    path: Path = request.param
    config = yaml.safe_load(path.read_text())
    assert config["provider"]["project_id"] == "PROJECT", "which Google refuses: it is to be set"
    config["provider"]["project_id"] = "a-project"
    accelerator = config["available_node_types"]["tpu"]["node_config"]["acceleratorType"]
    slices = config["available_node_types"]["tpu"]["max_workers"]
    topology = slice_topology(accelerator, slices)
    google = GoogleCloud({accelerator: topology.hosts_per_slice})
    monkeypatch.setattr(gcp_config, "construct_clients_from_provider_config", google.clients)
    monkeypatch.setattr(node_provider, "construct_clients_from_provider_config", google.clients)
    monkeypatch.setattr(gcp_node, "AuthorizedHttp", lambda credentials, http: google)
    providers._clear_provider_cache()
    # The launcher makes a key, and sends the folder that it is called in.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_UP_enable_autoscaler_v2", raising=False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / "sources").mkdir()
    monkeypatch.chdir(tmp_path / "sources")
    shell: Any = Shell()
    config = commands._bootstrap_config(config, no_config_cache=True)
    commands.get_or_create_head_node(
        copy.deepcopy(config),
        str(path),
        no_restart=False,
        restart_only=False,
        yes=True,
        override_cluster_name=None,
        _runner=shell,
    )
    launched = Launch(topology, config, google, shell, tmp_path)
    yield launched
    launched.close()


def test_the_head_is_made_and_started(launch: Launch) -> None:
    ((name, machine),) = launch.google.machines.items()
    assert name.startswith(f"ray-{launch.config['cluster_name']}-head-")
    assert not launch.google.slices, "it is the head that asks for slices"
    # What the head may do: to make slices is among it.
    (account,) = machine["requested"]["serviceAccounts"]
    assert account["email"].startswith("ray-autoscaler-sa-v1@")
    assert {"roles/tpu.admin", "roles/compute.admin"} <= launch.google.roles
    words, variables = launch.ray_start("34.0.0.2")
    assert words[:2] == ["start", "--head"]
    assert "--dashboard-host=127.0.0.1" in words
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in words
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_enable_autoscaler_v2"] == "0", "see the last test"
    copied = launch.shell.copied("34.0.0.2")
    assert copied[:2] == ["/home/ubuntu/emberay/", "/home/ubuntu/.ray/auth_token"]
    assert {"~/ray_bootstrap_config.yaml", "~/ray_bootstrap_key.pem"} == set(copied[2:])


def test_slices_are_made_and_all_their_hosts_started(launch: Launch) -> None:
    topology = launch.topology
    autoscaler, load = head_autoscaler(launch)
    until(autoscaler, launch.google, lambda: len(launch.google.slices) == topology.slices)
    until(autoscaler, launch.google, lambda: all(map(up_to_date, launch.google.slices.values())))
    for made in launch.google.slices.values():
        requested = made["requested"]
        assert requested["acceleratorType"] == topology.name
        assert requested["networkConfig"]["enableExternalIps"]
        for worker, endpoint in enumerate(made["networkEndpoints"]):
            words, variables = launch.ray_start(endpoint["ipAddress"])
            assert words == ["start", "--address=10.0.0.2:6379"]
            assert variables["RAY_AUTH_MODE"] == "token"
            first = {topology.ray_head_resource: 1} if worker == 0 else {}
            expected = {**topology.ray_resources, **first}
            assert json.loads(variables["RAY_OVERRIDE_RESOURCES"]) == expected
    # Later, with every host there and none at work for longer than hosts may be idle.
    for made in launch.google.slices.values():
        for number, endpoint in enumerate(made["networkEndpoints"]):
            address, has = endpoint["ipAddress"], cast(Any, topology.ray_resources)
            load.update(address, f"{address}-{number}".encode(), has, has, 3600.0)
    for _ in range(3):
        autoscaler.update()
    assert len(launch.google.slices) == topology.slices
    assert not launch.google.deleted


def test_a_slice_that_was_preempted_is_replaced(launch: Launch) -> None:
    google, count = launch.google, launch.topology.slices
    autoscaler, _ = head_autoscaler(launch)
    until(autoscaler, google, lambda: len(google.slices) == count)
    name = next(iter(google.slices))
    google.slices[name]["state"] = "PREEMPTED"
    until(autoscaler, google, lambda: len(google.slices) == count + 1)
    ready = [made for made in google.slices.values() if made["state"] == "READY"]
    until(autoscaler, google, lambda: all(map(up_to_date, ready)))
    assert len(ready) == count
    assert len(google.slices) == count + 1


def test_tpu7x_is_not_to_be_had_this_way() -> None:
    """Neither Ray nor Google's description of its service knows of it."""
    kinds = description("tpu")["schemas"]["AcceleratorConfig"]["properties"]["type"]["enum"]
    assert {"V5P", "V6E"} <= set(kinds)
    assert not any("7" in kind for kind in kinds)
    with pytest.raises(ValueError, match="Invalid accelerator type: tpu7x-16"):
        gcp_config.get_node_type({"acceleratorType": "tpu7x-16"})


@pytest.mark.parametrize("launch", [FILES[-1]], indirect=True, ids=lambda path: path.stem)
def test_the_newer_autoscaler_takes_hosts_for_slices(launch: Launch) -> None:
    """Why the files choose the older one. Once Ray tells them apart, this fails: they may not."""
    tpu, kinds = launch.config["available_node_types"]["tpu"], instances.NodeKind
    sent = {key: value for key, value in launch.config.items() if key != "head_node"}
    config = AutoscalingConfig(sent, skip_content_hash=True)
    storage = InstanceStorage("cluster", InMemoryStorage())
    manager = InstanceManager(storage, instance_status_update_subscribers=[])
    monitor: Any = MagicMock()
    monitor.get_resource_availabilities.return_value = {}
    there = {"head": CloudInstance("head", "head", kinds.HEAD, is_running=True, request_id="")}
    nodes = [ray_node("head", 0, {"CPU": 8.0, "node:__internal_head__": 1.0})]

    def turn() -> set[str]:
        Reconciler.reconcile(
            manager,
            ResourceDemandScheduler(),
            MagicMock(),
            monitor,
            states.ClusterResourceState(cluster_resource_state_version=1, node_states=nodes),
            dict(there),
            config,
        )
        known, _ = Reconciler._get_im_instances(manager)
        names = instances.Instance.InstanceStatus
        return {names.Name(one.status) for one in known if one.instance_type == "tpu"}

    assert "REQUESTED" in turn()
    there["slice"] = CloudInstance("slice", "tpu", kinds.WORKER, is_running=True, request_id="")
    turn()
    # The first host is taken for the slice: all is well until the next one comes.
    nodes.append(ray_node("slice", 0, tpu["resources"]))
    assert turn() == {"RAY_RUNNING"}
    nodes.append(ray_node("slice", 1, tpu["resources"]))
    assert "RAY_STOP_REQUESTED" in turn()


def ray_node(machine: str, number: int, resources: dict[str, float]) -> Any:
    """As Ray knows of a host: by the machine that the launcher says it is."""
    return states.NodeState(
        node_id=f"{machine}-{number}".encode(),
        instance_id=machine,
        ray_node_type_name="head" if machine == "head" else "tpu",
        status=states.NodeStatus.RUNNING,
        total_resources=resources,
        available_resources=resources,
        node_state_version=1,
    )
