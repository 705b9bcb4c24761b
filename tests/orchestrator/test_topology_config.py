"""``cluster.topology`` in a configuration: what it says, and what it does not go with."""

from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator import Driver
from orchestrator.config import ClusterConfig, RunConfig
from orchestrator.config_loading import load_config, make_config
from orchestrator.errors import ConfigError
from orchestrator.machines import resources_of_host
from orchestrator.plain_yaml import read_yaml
from workers.errors import PlanMismatch
from workers.mesh import check_mesh
from workers.planning import topology_of


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "devices", "sparsecores"),
    [("v5p-16", 1, 2, 4, 4), ("v6e-16", 2, 8, 4, 2), ("v6e-8", 1, 1, 8, 2), ("7x-16", 1, 2, 8, 2)],
)
def test_a_topology_says_hosts_devices_and_sparsecores(
    topology, slices, hosts, devices, sparsecores
):
    words = [f"cluster.topology={topology}", f"cluster.slices={slices}"]
    config = load_config(None, words)
    assert (config.platform, config.hosts, config.devices_per_host) == ("tpu", hosts, devices)
    run = config.run_spec("data", "folder")
    assert run.sparsecores_per_device == sparsecores
    planned = topology_of(run, config.hosts)
    assert planned.sparsecores == config.cluster.slice_topology.sparsecores
    assert make_config(read_yaml(config.to_yaml())) == config


def test_a_configuration_in_python():
    config = RunConfig(cluster=ClusterConfig(topology="tpu7x-16"))
    assert (config.cluster.topology, config.hosts, config.devices_per_host) == ("7x-16", 2, 8)


def test_other_devices_have_one_partition():
    assert load_config().run_spec("", "").sparsecores_per_device == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["cluster.topology=v6e-12"],
            "cluster.topology: there is no TPU slice v6e-12 .* v6e-8 and",
        ),
        (["platform=tpu"], "platform tpu needs cluster.topology, such as v6e-16"),
        (["cluster.topology=v6e-16", "hosts=3"], "hosts is 3, but it is 4 on v6e-16: leave it out"),
        (["cluster.topology=v6e-16", "platform=cpu"], "platform is cpu, but it is tpu on v6e-16"),
        (
            ["cluster.topology=v6e-16", "cluster.slices=2", "devices_per_host=2"],
            "devices_per_host is 2, but it is 4 on 2 × v6e-16",
        ),
        (["cluster.slices=2"], "cluster: slices are of TPUs: say of which in cluster.topology"),
        (
            ["cluster.topology=v6e-16", "elastic.sizes=[6]"],
            "6 hosts, but hosts come by slices of 4",
        ),
        (["cluster.topology=v5p-8", "cluster.spares=1"], "leave out resources_per_host and spares"),
        (
            ["cluster.topology=v5p-8", "cluster.resources_per_host={TPU: 4}"],
            "topology says what a host takes",
        ),
    ],
)
def test_what_a_topology_does_not_go_with(words, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(None, words)
    assert "value error" not in str(caught.value)


def test_an_accelerator_says_platform_and_resources():
    gpu = load_config(None, ["cluster.accelerator=gpu", "devices_per_host=8"])
    assert (gpu.platform, gpu.hosts, gpu.devices_per_host) == ("gpu", 1, 8)
    assert resources_of_host(gpu.cluster, 8) == {"GPU": 8.0}
    more = ["cluster.num_cpus_per_host=16", "cluster.resources_per_host={fast: 1}", "hosts=4"]
    gpu = load_config(None, ["cluster.accelerator=gpu", "devices_per_host=8", *more])
    assert gpu.hosts == 4
    assert resources_of_host(gpu.cluster, 8) == {"CPU": 16.0, "GPU": 8.0, "fast": 1.0}
    assert make_config(read_yaml(gpu.to_yaml())) == gpu
    cpu = load_config(None, ["cluster.accelerator=cpu", "cluster.num_cpus_per_host=4"])
    assert (cpu.platform, resources_of_host(cpu.cluster, 2)) == ("cpu", {"CPU": 4.0})
    assert load_config(None, ["cluster.topology=v5p-8", "cluster.accelerator=tpu"]).hosts == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cluster.accelerator=gpu"], "set devices_per_host to the GPUs that a host takes"),
        (
            ["cluster.accelerator=gpu", "devices_per_host=8", "platform=cpu"],
            "platform is cpu, but it is gpu on machines of cluster.accelerator gpu: leave it out",
        ),
        (["cluster.accelerator=cpu"], "accelerator cpu needs num_cpus_per_host"),
        (["cluster.accelerator=tpu"], "accelerator tpu needs topology, such as v6e-16"),
        (
            ["cluster.accelerator=gpu", "cluster.topology=v6e-16"],
            "topology v6e-16 is of TPUs: leave out accelerator gpu",
        ),
        (["cluster.placement=STRICT_SPREAD"], "placement needs accelerator: set it to gpu or cpu"),
        (
            ["cluster.accelerator=gpu", "cluster.resources_per_host={GPU: 8}"],
            "leave GPU out of resources_per_host; devices_per_host counts GPUs",
        ),
        (["cluster.accelerator=gpu", "cluster.spares=1"], "leave out spares"),
        (
            ["cluster.accelerator=gpu", "cluster.placement=PACK"],
            "cluster.placement: input should be 'SPREAD' or 'STRICT_SPREAD'",
        ),
        (["cluster.accelerators=gpu"], "did you mean 'cluster.accelerator'"),
    ],
)
def test_what_an_accelerator_does_not_go_with(words, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, words)


def test_a_run_on_slices_is_resized_by_slices():
    values = {"cluster": {"topology": "v6e-16", "slices": 2}, "batch_size": 1536}
    with Driver(values) as driver:
        with pytest.raises(ConfigError, match="6 hosts: hosts come by slices of 4"):
            driver.resize(6)
        driver.resize(4)
        assert driver.config.hosts == 4


def mesh_of(kind, platform="tpu"):
    device = SimpleNamespace(device_kind=kind, platform=platform)
    return SimpleNamespace(devices=np.array([device]))


def test_hosts_check_that_the_tpus_are_those_of_the_plan():
    check_mesh(mesh_of("TPU v6 lite"), rank=3, process=3, sparsecores_per_device=2)
    check_mesh(mesh_of("cpu", "cpu"), rank=3, process=0, sparsecores_per_device=1)
    with pytest.raises(
        PlanMismatch, match="TPU v5 has 4 SparseCores, but the run is planned for 2"
    ):
        check_mesh(mesh_of("TPU v5"), rank=0, process=0, sparsecores_per_device=2)
    with pytest.raises(PlanMismatch, match=r"host 1: the TPUs count it as host 2;.*TPU_WORKER_ID"):
        check_mesh(mesh_of("TPU v6 lite"), rank=1, process=2, sparsecores_per_device=2)
