"""Statistics in files, and limits made of them, as jax-tpu-embedding has both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_tpu_embedding.sparsecore.lib.fdo import csv_file_fdo_client as peer_csv
from jax_tpu_embedding.sparsecore.lib.fdo import file_fdo_client as peer_npz

import kernels
from kernels import embedding
from kernels.fdo import CSVFileFDOClient, FDOClient, NPZFileFDOClient
from tests.kernels import peer
from tests.kernels.support import Engine, random_ids, several_features

CLIENTS = [NPZFileFDOClient, CSVFileFDOClient]
PEERS = {NPZFileFDOClient: peer_npz.NPZFileFDOClient, CSVFileFDOClient: peer_csv.CSVFileFDOClient}
FIELDS = [field.name for field in dataclasses.fields(kernels.SparseDenseMatmulInputStats)]


def stats(ids, unique=(1, 2, 3, 4), buffer=None, name="one", kind=None):
    make = kind or kernels.SparseDenseMatmulInputStats
    return make(
        max_ids_per_partition={name: np.array(ids)},
        max_unique_ids_per_partition={name: np.array(unique)},
        required_buffer_size_per_sc={} if buffer is None else {name: np.array(buffer)},
    )


def as_lists(statistics):
    return {
        name: {key: np.asarray(value).tolist() for key, value in getattr(statistics, name).items()}
        for name in FIELDS
    }


@pytest.mark.parametrize("client_class", CLIENTS)
def test_one_batch_comes_back(client_class, tmp_path):
    client: FDOClient = client_class(tmp_path / "made" / "here")
    with pytest.raises(FileNotFoundError, match="publish"):
        client.load()
    client.record(stats([10, 20, 30, 40]))
    client.publish()
    assert as_lists(client.load()) == as_lists(stats([10, 20, 30, 40]))
    assert not [f for f in (tmp_path / "made" / "here").iterdir() if f.name.startswith(".")]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_several_batches_are_rows(client_class, tmp_path):
    client = client_class(tmp_path)
    client.record(stats([10, 20], [1, 2], [256]))
    client.record(stats([5, 30], [2, 1], [512]))
    client.publish()
    loaded = client.load()
    assert loaded.max_ids_per_partition["one"].tolist() == [[10, 20], [5, 30]]
    assert loaded.required_buffer_size_per_sc["one"].tolist() == [[256], [512]]
    client.record(stats([1, 1], [1, 1], [8]))
    client.publish()
    assert client.load().max_ids_per_partition["one"].tolist() == [[10, 20], [5, 30], [1, 1]]


def test_without_history_the_largest_values_are_kept(tmp_path):
    client = CSVFileFDOClient(tmp_path, retain_history=False)
    client.record(stats([10, 20], [1, 2], [256]))
    client.record(stats([5, 30], [2, 1], [512]))
    client.publish()
    assert as_lists(client.load()) == as_lists(stats([10, 30], [2, 2], [512]))


def write(client_class, folder: Path, process: int, moment: int, values) -> None:
    client = client_class(folder)
    client.record(values)
    client.publish()
    newest = max(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    newest.rename(newest.with_name(f"fdo_stats_{process}_{moment}{newest.suffix}"))


@pytest.mark.parametrize("client_class", CLIENTS)
def test_the_newest_files_of_all_processes_are_merged(client_class, tmp_path):
    write(client_class, tmp_path, 0, 9, stats([99, 99, 99, 99]))
    write(client_class, tmp_path, 0, 10, stats([10, 20, 30, 40], buffer=[64]))
    write(client_class, tmp_path, 11, 8, stats([20, 10, 40, 30], [2, 1, 4, 3], [128]))
    write(client_class, tmp_path, 2, 8, stats([7, 7, 7, 7], name="two"))
    (tmp_path / f"fdo_stats_notes.{client_class._EXTENSION}").write_text("not ours")
    loaded = client_class(tmp_path).load()
    assert loaded.max_ids_per_partition["one"].tolist() == [20, 20, 40, 40]
    assert loaded.max_unique_ids_per_partition["one"].tolist() == [2, 2, 4, 4]
    assert loaded.required_buffer_size_per_sc["one"].tolist() == [128]
    assert loaded.max_ids_per_partition["two"].tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_names_of_files_are_sorted_out_as_there(client_class, tmp_path):
    names = ["0_10", "0_20", "0_30", "1_09", "0_40", "2_10"]
    files = [f"some/where/fdo_stats_{name}.{client_class._EXTENSION}" for name in names]
    want = PEERS[client_class](tmp_path)._get_latest_files_by_process(files)
    assert client_class(tmp_path)._get_latest_files_by_process(files) == want
    assert want[0].endswith(f"2_10.{client_class._EXTENSION}")
    assert client_class(tmp_path)._get_latest_files_by_process([]) == []


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("history", [1, 3])
def test_both_read_the_files_of_the_other(client_class, history, tmp_path):
    theirs, mine = PEERS[client_class](tmp_path / "a"), client_class(tmp_path / "b")
    (tmp_path / "a").mkdir()
    for number in range(history):
        ids = [10 + number, 20, 30, 40]
        theirs.record(stats(ids, buffer=[8], kind=peer.embedding.SparseDenseMatmulInputStats))
        mine.record(stats(ids, buffer=[8]))
    theirs.publish()
    mine.publish()
    from_there = client_class(tmp_path / "a").load()
    from_here = PEERS[client_class](tmp_path / "b").load()
    assert as_lists(from_there) == as_lists(from_here) == as_lists(theirs.load())


@pytest.mark.parametrize("client_class", CLIENTS)
def test_statistics_of_a_real_batch_pass_through(client_class, tmp_path):
    engine = Engine(several_features(32), 2, 2)
    _, observed = engine.encode(random_ids(engine.specs, 0))
    client = client_class(tmp_path)
    client.record(observed)
    client.publish()
    loaded = client.load()
    for name in FIELDS[:3]:
        for stack, values in getattr(observed, name).items():
            np.testing.assert_array_equal(getattr(loaded, name)[stack], values)
    assert {k: int(np.max(v)) for k, v in loaded.id_drop_counters.items()} == dict.fromkeys(
        observed.id_drop_counters, 0
    )


def test_what_cannot_be_read_is_refused(tmp_path):
    client = CSVFileFDOClient(tmp_path)
    (tmp_path / "fdo_stats_0_1.csv").write_text("key,values\none_max_ids,1 2 x\n")
    with pytest.raises(kernels.SpecError, match="line 2"):
        client.load()
    (tmp_path / "fdo_stats_0_1.csv").write_text("key,values\none_max_ids,1 2\none_max_ids,1\n")
    with pytest.raises(kernels.SpecError, match="differ in length"):
        client.load()
    (tmp_path / "fdo_stats_0_1.csv").write_text("key,values\none,1 2\n")
    with pytest.raises(kernels.SpecError, match="Unexpected key: one"):
        client.load()
    (tmp_path / "fdo_stats_0_1.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(kernels.SpecError, match="holds no statistics"):
        NPZFileFDOClient(tmp_path).load()
    with pytest.raises(kernels.SpecError, match="2 values, but 4 before"):
        client.record(stats([1, 2, 3, 4]))
        client.record(stats([1, 2]))


@given(data=st.data(), per_device=st.sampled_from([2, 4]))
@settings(max_examples=25, deadline=None)
def test_parameters_are_updated_as_there(data, per_device):
    specs = several_features(32)
    theirs = peer.specs_like(specs)
    kernels.prepare_feature_specs_for_training(specs, 2, per_device)
    peer.embedding.prepare_feature_specs_for_training(theirs, 2, per_device)
    counts = st.lists(st.integers(1, 5000), min_size=2 * per_device, max_size=2 * per_device)
    some = st.dictionaries(st.sampled_from(["users", "items", "days", "others"]), counts)
    values = [{name: np.array(value) for name, value in data.draw(some).items()} for _ in range(3)]
    embedding.update_preprocessing_parameters(
        specs, kernels.SparseDenseMatmulInputStats(*values), per_device
    )
    peer.embedding.update_preprocessing_parameters(
        theirs, peer.embedding.SparseDenseMatmulInputStats(*values), per_device
    )
    peer.assert_same_placement(specs, theirs)


def test_empty_batches_leave_room_for_one_id():
    specs = several_features(32)
    kernels.prepare_feature_specs_for_training(specs, 1, 1)
    nothing = {"users": np.zeros(8, np.int32)}
    embedding.update_preprocessing_parameters(
        specs, kernels.SparseDenseMatmulInputStats(nothing, nothing), 1
    )
    stack = specs["user"].table_spec.stacked_table_spec
    assert (stack.max_ids_per_partition, stack.max_unique_ids_per_partition) == (1, 1)
    assert specs["day"].table_spec.stacked_table_spec.max_ids_per_partition == 256
    with pytest.raises(kernels.SpecError, match="not called"):
        embedding.update_preprocessing_parameters(
            several_features(32), kernels.SparseDenseMatmulInputStats(nothing, nothing), 1
        )


def test_updated_limits_hold_the_batches_they_were_made_of():
    engine = Engine(several_features(32), 2, 2)
    ids = random_ids(engine.specs, 1)
    _, observed = engine.encode(ids)
    embedding.update_preprocessing_parameters(engine.placed, observed, 2)
    again, _ = engine.encode(ids)
    sizes = {a.size for a in jax.tree.leaves(again.lhs_embedding_ids)}
    assert sizes == {
        2 * int(observed.get_required_buffer_size_per_device(stack.name, 2))
        for stack in engine.plan.stacks
    }
