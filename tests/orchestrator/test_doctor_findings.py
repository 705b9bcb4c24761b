"""Findings from facts that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config_loading import make_config
from orchestrator.doctor import Answer, ClusterFacts, Finding, diagnose
from orchestrator.doctor.facts import DRIVER
from orchestrator.doctor.gathering import missing_room, seconds_to_stop
from workers.probes import FolderFacts, Holder, NodeFacts

WELL = NodeFacts(
    clock=100.0,
    versions={"python": "3.12.1", "jax": "0.12", "ray": "2.60", "optax": "0.2"},
    code="c0de",
    program="b00c",
    open_files=65536,
    shm_bytes=8 << 30,
    folder=FolderFacts("/mnt/runs", free_bytes=1 << 40),
    data=FolderFacts("/mnt/data", files=3, digest="d1"),
)


def answer(node, **changes):
    return Answer(node, replace(WELL, **changes), asked=99.5, answered=100.5)


def findings(*answers, **fields):
    others = tuple(answer(name) for name in (DRIVER, "a", "b"))
    return diagnose(ClusterFacts((*others, *answers), **fields))


def only(*answers, **fields) -> Finding:
    (finding,) = findings(*answers, **fields)
    return finding


def test_nothing_is_found_where_nothing_is_wrong():
    for platform in ("cpu", "gpu", "tpu"):
        assert findings(platform=platform, stop_seconds=30.0) == []


@pytest.mark.parametrize(
    ("changes", "check", "severity", "says"),
    [
        ({"versions": {**WELL.versions, "jax": "0.11"}}, "versions", "error", "jax is 0.12 on"),
        ({"versions": {**WELL.versions, "optax": "-"}}, "versions", "warning", "- on c"),
        ({"code": "01d"}, "versions", "error", "01d on c"),
        ({"program": ""}, "program", "error", "not found"),
        ({"program": "01d"}, "program", "error", "not the same"),
        ({"clock": 103.0}, "clock", "warning", "2.5 s ahead of the driver's"),
        ({"clock": 90.0}, "clock", "warning", "9.5 s behind the driver's"),
        ({"environment": {"JAX_DISABLE_JIT": "1"}}, "environment", "warning", "very slowly"),
        ({"environment": {"JAX_DEBUG_NANS": "True"}}, "environment", "warning", "waits for"),
        ({"environment": {"JAX_ENABLE_X64": "1"}}, "environment", "warning", "take 64 bits"),
        ({"environment": {"JAX_PROCESS_ID": "3"}}, "environment", "warning", "of another run"),
        (
            {"environment": {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}},
            "environment",
            "warning",
            "which devices_per_host does",
        ),
        ({"environment": {"MEGASCALE_NUM_SLICES": "2"}}, "environment", "note", "earlier start"),
        ({"environment": {"https_proxy": ""}}, "environment", "warning", "https_proxy is set"),
        ({"environment": {"XLA_FLAGS": "--x"}}, "environment", "error", "'--x' on c"),
        ({"compiled_anew": "X is set"}, "bytecode", "note", "X is set, and JAX was installed"),
        ({"folder": FolderFacts("/r", missing=True)}, "run folder", "error", "/r is not there"),
        ({"folder": FolderFacts("/r", shared=False)}, "run folder", "error", "another one than"),
        ({"folder": FolderFacts("/r", trouble="full")}, "run folder", "error", "full"),
        ({"folder": FolderFacts("/r", free_bytes=1)}, "run folder", "warning", "0 MiB left"),
        ({"data": FolderFacts("/d", missing=True, trouble="no /d")}, "data", "error", "no /d"),
        ({"data": FolderFacts("/d", trouble="denied")}, "data", "error", "/d: denied"),
        ({"data": FolderFacts("/d", files=2, digest="e")}, "data", "error", "2 files, e on c"),
        ({"shm_bytes": 64 << 20}, "shared memory", "warning", "64 MiB, fewer than 128"),
        ({"open_files": 1024}, "open files", "warning", "1,024"),
        ({"kernels": {"kernels._cpu_kernels": "gone"}}, "kernels", "warning", "(gone)"),
    ],
)
def test_what_is_wrong_with_one_node_is_named_with_the_node(changes, check, severity, says):
    found = findings(answer("c", **changes))
    ours = [one for one in found if (one.check, one.severity) == (check, severity)]
    assert len(ours) == 1, found
    assert says in ours[0].words
    assert ours[0].nodes in (("c",), ())
    assert ours[0].remedy


def test_the_same_on_several_nodes_is_one_finding_and_errors_come_first():
    found = findings(answer("c", open_files=1024, code="01d"), answer("d", open_files=1024))
    assert [one.severity for one in found] == ["error", "warning"]
    assert found[1].nodes == ("c", "d")


def test_a_node_that_does_not_answer():
    finding = only(Answer("c", None, "ModuleNotFoundError: No module named 'workers'"))
    assert (finding.check, finding.nodes) == ("answers", ("c",))
    assert "No module named 'workers'" in finding.what


def test_a_clock_that_the_wait_for_the_answer_explains_is_no_finding():
    late = Answer("c", replace(WELL, clock=106.0), asked=99.0, answered=107.0)
    assert findings(late) == []
    assert late.skew == 0.0


def test_nodes_that_do_not_reach_each_other():
    refused = {"b": "refused", "c": "refused"}
    first, second = findings(unreached={"a": refused, "b": {"a": "no answer within 5 s"}})
    assert (first.nodes, second.nodes) == (("a",), ("b",))
    assert first.what == "b, c cannot be connected to on a free port: refused"


def test_chips_that_others_hold():
    held = answer("c", holders=(Holder(7, "process 7 (python) holds /dev/accel0"),))
    finding = only(held, platform="tpu")
    assert finding.severity == "error"
    assert "kill 7" in finding.remedy
    assert only(held, platform="gpu").severity == "warning"
    closed = only(answer("c", closed_lock="/tmp/lock of user x cannot be opened"), platform="tpu")
    assert "user x" in closed.what


def test_on_tpus_variables_that_leave_chips_out():
    whole = answer("c", environment={"TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1", "TPU_WORKER_ID": "1"})
    assert findings(whole, platform="tpu", chips_per_host=4) == []
    part = answer("c", environment={"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"})
    assert "1 chips of 4" in only(part, platform="tpu", chips_per_host=4).what
    visible = answer("c", environment={"TPU_VISIBLE_CHIPS": "0,1"})
    assert "2 chips of 4" in only(visible, platform="tpu", chips_per_host=4).what
    assert findings(part, platform="cpu") == []
    unloaded = answer("c", environment={"TPU_LOAD_LIBRARY": "0"})
    assert "not loaded" in only(unloaded, platform="tpu", chips_per_host=4).what
    twice = answer("c", environment={"ALLOW_MULTIPLE_LIBTPU_LOAD": "true"})
    assert "the same chips" in only(twice, platform="tpu", chips_per_host=4).what
    off = answer("c", environment={"ALLOW_MULTIPLE_LIBTPU_LOAD": "0", "TPU_LOAD_LIBRARY": "1"})
    assert findings(off, platform="tpu", chips_per_host=4) == []


def test_on_gpus_more_shared_memory_is_needed():
    half = answer("c", shm_bytes=512 << 20)
    assert findings(half, platform="cpu") == []
    assert only(half, platform="gpu").check == "shared memory"


def test_what_hosts_set_themselves_may_differ():
    assert findings(answer("c", environment={"JAX_PLATFORMS": "cpu"})) == []
    assert findings(answer("c", environment={"http_proxy": "", "no_proxy": "10.0.0.0/8"})) == []


def test_cpu_kernels_matter_on_cpus_alone():
    lacking = answer("c", kernels={"kernels._cpu_kernels": "gone"})
    assert findings(lacking, platform="tpu") == []
    both = answer("c", kernels={"kernels._preprocess": "gone"})
    assert only(both, platform="tpu").check == "kernels"


def test_a_job_must_be_left_time_to_save():
    finding = only(stop_seconds=3.0, grace=25.0)
    assert (finding.check, finding.nodes) == ("job", ())
    assert "RAY_JOB_STOP_WAIT_TIME_S=30" in finding.remedy
    config = '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    assert seconds_to_stop({"RAY_JOB_CONFIG_JSON_ENV_VAR": config}) == 3.0
    told = {"RAY_JOB_CONFIG_JSON_ENV_VAR": config, "RAY_JOB_STOP_WAIT_TIME_S": "40"}
    assert seconds_to_stop(told) == 40.0
    assert seconds_to_stop({"RAY_JOB_STOP_WAIT_TIME_S": "40"}) is None


def test_room_for_all_hosts():
    nodes = [
        {"NodeID": name, "Alive": name != "gone", "Resources": resources}
        for name, resources in {
            "a": {"CPU": 8.0, "disk": 1.0},
            "b": {"CPU": 3.0},
            "gone": {"CPU": 64.0},
        }.items()
    ]

    def room(**cluster):
        return missing_room(make_config({"hosts": 3, "cluster": cluster}), nodes)

    assert room() == ""
    assert room(num_cpus_per_host=3.0) == ""
    short = room(num_cpus_per_host=3.0, resources_per_host={"disk": 0.5})
    assert short == "there is room for 2 of 3 hosts with CPU: 3, disk: 0.5"
    apart = room(accelerator="cpu", num_cpus_per_host=3.0, placement="STRICT_SPREAD")
    assert apart == "there is room for 2 of 3 hosts with CPU: 3, on nodes of their own"
    sliced = make_config({"cluster": {"topology": "v6e-4"}, "batch_size": 64})
    assert "ray.io/tpu-pod-type" in missing_room(sliced, nodes)
    assert only(missing="no room").check == "room"
