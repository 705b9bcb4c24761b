"""The table of TPU slices: against published figures, Ray's own tables, and the TPU compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private.accelerators import tpu as ray_tpu

from kernels.utils import NUM_SC_PER_DEVICE_MAP
from orchestrator.errors import ConfigError
from orchestrator.topology import GENERATIONS, larger_topologies, sizes_of, slice_topology
from workers.aot import COMPILER_ENVIRONMENT

ROOT = Path(__file__).parents[2]
ALL = [f"{name}-{size}" for name in GENERATIONS for size in sizes_of(name)]


@pytest.mark.parametrize(
    ("name", "shape", "chips", "hosts", "devices", "sparsecores"),
    [
        # From the tables of Google's pages on these generations.
        ("v5p-8", "2x2x1", 4, 1, 4, 16),
        ("v5p-16", "2x2x2", 8, 2, 8, 32),
        ("v5p-64", "2x4x4", 32, 8, 32, 128),
        ("v5p-128", "4x4x4", 64, 16, 64, 256),
        ("v5p-512", "4x8x8", 256, 64, 256, 1024),
        ("v5p-12288", "16x16x24", 6144, 1536, 6144, 24576),
        ("v6e-1", "1x1", 1, 1, 1, 2),
        ("v6e-4", "2x2", 4, 1, 4, 8),
        ("v6e-8", "2x4", 8, 1, 8, 16),
        ("v6e-16", "4x4", 16, 4, 16, 32),
        ("v6e-256", "16x16", 256, 64, 256, 512),
        ("7x-8", "2x2x1", 4, 1, 8, 16),
        ("7x-16", "2x2x2", 8, 2, 16, 32),
        ("7x-4096", "8x16x16", 2048, 512, 4096, 8192),
    ],
)
def test_slices_are_what_google_says(name, shape, chips, hosts, devices, sparsecores):
    topology = slice_topology(name)
    assert (topology.name, topology.shape, topology.chips) == (name, shape, chips)
    assert (topology.hosts, topology.devices, topology.sparsecores) == (hosts, devices, sparsecores)
    assert topology.hosts * topology.devices_per_host == devices
    assert topology.mesh_shape == (devices,)


@pytest.mark.parametrize("name", ALL)
def test_every_slice_is_one_that_ray_knows(name):
    topology = slice_topology(name)
    version = topology.generation.ray
    kind = topology.ray_labels("any", 0)["ray.io/accelerator-type"]
    valid = ray_tpu.TPUAcceleratorManager.is_valid_tpu_accelerator_topology
    assert valid(version, topology.shape)
    assert ray_tpu.infer_tpu_pod_type_from_topology(topology.shape, kind) == topology.pod_type
    assert ray_tpu.get_total_chips_from_accelerator_type(topology.pod_type) == topology.chips
    assert ray_tpu.get_chips_per_host(topology.shape, version) == topology.chips_per_host
    assert topology.ray_resources == {"TPU": topology.chips_per_host}
    assert topology.chips_per_host in ray_tpu.TPU_VALID_CHIP_OPTIONS


def test_all_shapes_of_ray_that_a_size_is_compact_in_are_used():
    for name, generation in GENERATIONS.items():
        ours = {slice_topology(f"{name}-{size}").shape for size in sizes_of(name)}
        sizes = {ray_tpu.get_num_chips_from_topology(shape) for shape in ours}
        for shape in ray_tpu.VALID_TPU_TOPOLOGY[generation.ray]:
            assert ray_tpu.get_num_chips_from_topology(shape) in sizes, shape


def test_several_slices():
    two = slice_topology("v6e-16", slices=2)
    assert (two.hosts, two.hosts_per_slice, two.devices, two.chips) == (8, 4, 32, 16)
    assert two.described == "2 × v6e-16"
    assert slice_topology("v6e-16").described == "v6e-16"
    assert two.ray_head_resource == "TPU-v6e-16-head"
    assert two.ray_labels("mine", 3) == {
        "ray.io/accelerator-type": "TPU-V6E",
        "ray.io/tpu-slice-name": "mine",
        "ray.io/tpu-worker-id": "3",
        "ray.io/tpu-topology": "4x4",
        "ray.io/tpu-pod-type": "v6e-16",
    }


def test_other_ways_to_write_a_name():
    names = ("7x-16", "tpu7x-16", "TPU7x-16", "v7x-16", " 7x-16 ")
    assert {slice_topology(name).name for name in names} == {"7x-16"}
    assert slice_topology("7x-16").compiler_name == "tpu7x:2x2x2"
    assert slice_topology("v6e-8").machine_type == "ct6e-standard-8t"
    assert slice_topology("v6e-16").machine_type == "ct6e-standard-4t"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v6e-12", "the number counts chips.*nearest are v6e-8 and v6e-16"),
        ("v5p-4", "TensorCores, two of a chip.*nearest are v5p-8"),
        ("v5p-896", "nearest are v5p-768 and v5p-1024"),
        ("7x-100000", "nearest are 7x-4096"),
        ("v4-8", "no TPU slice 'v4-8': write generation and size, such as v5p-8, v6e-16 or 7x-16"),
        ("v6e", "write generation and size"),
        ("v6e-16x", "write generation and size"),
        ("", "write generation and size"),
    ],
)
def test_sizes_that_do_not_exist_are_told_with_the_nearest(name, told):
    with pytest.raises(ConfigError, match=told):
        slice_topology(name)


def test_no_slices():
    with pytest.raises(ConfigError, match="give at least 1"):
        slice_topology("v6e-16", slices=0)


def test_larger_slices():
    assert [t.name for t in larger_topologies(slice_topology("v6e-64", 2))] == [
        "v6e-128",
        "v6e-256",
    ]
    assert {t.slices for t in larger_topologies(slice_topology("v6e-64", 2))} == {2}
    assert not larger_topologies(slice_topology("v6e-256"))


_ASK_COMPILER = """
import json, sys
from jax.experimental import topologies
for name, bounds in json.loads(sys.argv[1]):
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=name, chips_per_host_bounds=bounds)
    by_host = {}
    for device in described.devices:
        by_host.setdefault(device.process_index, []).append(list(device.coords))
    print(json.dumps([described.devices[0].device_kind, [by_host[h] for h in sorted(by_host)]]))
"""


@pytest.mark.system
def test_every_slice_is_one_that_the_compiler_knows():
    """Devices, hosts, SparseCores; and hosts are numbered along the interconnect, x first."""
    names = [name for name in ALL if slice_topology(name).chips <= 512]
    tables = [slice_topology(name) for name in names]
    asked = [(table.compiler_name, table.compiler_host_bounds) for table in tables]
    done = subprocess.run(
        [sys.executable, "-c", _ASK_COMPILER, json.dumps(asked)],
        cwd=ROOT,
        env=os.environ | dict(COMPILER_ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for table, line in zip(tables, done.stdout.splitlines(), strict=True):
        kind, by_host = json.loads(line)
        assert NUM_SC_PER_DEVICE_MAP[kind] == table.sparsecores_per_device, table.name
        assert [len(host) for host in by_host] == [table.devices_per_host] * table.hosts, table.name
        first_chips = [min(tuple(reversed(at)) for at in host) for host in by_host]
        assert first_chips == sorted(first_chips), table.name
