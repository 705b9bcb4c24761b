"""Looking at this machine for real."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time

import pytest

from workers.data.synthetic import is_synthetic
from workers.probes import Ear, Peer, Questions, look, reach
from workers.probes.chips import read_nvidia
from workers.probes.deadline import within
from workers.probes.storage import existing, look_at_data, look_at_folder, marked


def test_this_machine_answers_all_and_the_answer_crosses_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy")
    marker = marked(tmp_path)
    before = time.time()
    questions = Questions(
        platform="tpu",
        program="workers.programs.flights:program",
        folder=str(tmp_path),
        marker=marker.name,
        data="synthetic:rows=10,users=5",
    )
    facts = pickle.loads(pickle.dumps(look(questions)))
    assert before <= facts.clock <= time.time()
    assert facts.versions["python"].startswith("3.12")
    assert all(facts.versions[name] != "-" for name in ("emberay", "jax", "ray"))
    assert (len(facts.code), len(facts.program)) == (12, 12)
    assert facts.environment["MEGASCALE_NUM_SLICES"] == "2"
    assert "secret" not in str(facts)
    assert facts.environment["http_proxy"] == ""
    assert facts.open_files != 0
    assert facts.shm_bytes > 0
    assert (facts.folder.missing, facts.folder.shared, facts.folder.trouble) == (False, True, None)
    assert facts.folder.free_bytes > 0
    assert (facts.data.missing, facts.data.trouble) == (False, None)
    assert list(tmp_path.iterdir()) == [marker]


def test_looking_starts_no_jax():
    code = (
        "import sys; from workers.probes import Questions, look; "
        "look(Questions(platform='tpu', program='workers.programs.flights:program')); "
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_program_that_is_not_there():
    assert look(Questions(program="nowhere.to_be.found:program")).program == ""


def test_folders_that_are_missing_or_others_or_not_to_be_written(tmp_path):
    assert look_at_folder(str(tmp_path / "none"), None, 5.0).missing
    assert not look_at_folder(str(tmp_path), ".emberay-doctor-of-another", 5.0).shared
    assert existing(tmp_path / "a" / "b") == tmp_path
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert look_at_folder(str(tmp_path), None, 5.0).trouble == "Permission denied"
    found = look_at_folder("/proc/self", None, 5.0)
    assert found.trouble, "a folder where nobody can put a file"


def test_data_that_is_missing_empty_or_there(tmp_path):
    missing = look_at_data(str(tmp_path / "none"), 5.0)
    assert missing.missing
    assert "does not exist" in str(missing.trouble)
    assert "has no files" in str(look_at_data(str(tmp_path), 5.0).trouble)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    first = look_at_data(str(tmp_path), 5.0)
    assert (first.files, first.trouble) == (1, None)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert look_at_data(str(tmp_path), 5.0).digest != first.digest
    assert is_synthetic("synthetic:rows=10")


def test_a_storage_that_hangs_is_told_of(tmp_path):
    fifo = tmp_path / "hangs.parquet"
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR)  # so that a reader waits for bytes, not for a writer
    try:
        found = look_at_data(str(fifo), 0.2)
    finally:
        os.write(pipe, b"PAR1")
        os.close(pipe)
    assert found.trouble


def test_a_call_has_a_deadline():
    assert within(5.0, lambda: 2) == 2
    with pytest.raises(ValueError, match="no"):
        within(5.0, lambda: int("no"))
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        within(0.05, release.wait)
    release.set()


def test_connections_are_tried_for_real():
    ear = Ear("hello")
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(1)
    ports = {"good": ear.port, "closed": 0, "other": Ear("someone else").port}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ports["closed"] = probe.getsockname()[1]
    ports["silent"] = silent.getsockname()[1]
    peers = [Peer(name, "127.0.0.1", port) for name, port in ports.items()]
    troubles = reach(peers, "hello", 2.0)
    assert set(troubles) == {"closed", "other", "silent"}
    assert troubles["closed"] == "Connection refused"
    assert troubles["other"] == "another server answers"
    assert troubles["silent"] == "no answer within 2 s"
    ear.close()
    silent.close()
    assert reach(peers[:1], "hello", 0.3)


def test_what_nvidia_smi_prints():
    text = "GPU-1a, 4711, /usr/bin/python\nGPU-1b, [N/A], -\nGPU-1c, 12, a, with a comma\n"
    (holder,) = read_nvidia(text)
    assert (holder.pid, holder.told) == (4711, "process 4711 (/usr/bin/python) computes on GPU-1a")
    assert read_nvidia("") == ()


def test_modules_that_are_compiled_in_every_process(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("")
    code = (
        "import os; from workers.probes import node; print(node._why_compiled_anew()); "
        "import jax; print(node._why_compiled_anew()); "
        "os.access = lambda *_: False; print(node._why_compiled_anew())"
    )

    def said(**variables):
        return subprocess.run(
            [sys.executable, "-c", code],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
                "PYTHONPATH": str(tmp_path),
                **variables,
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()

    unset = "PYTHONDONTWRITEBYTECODE is set"
    assert said(PYTHONDONTWRITEBYTECODE="1") == [unset] * 3
    nowhere = tmp_path / "file"
    nowhere.touch()
    elsewhere = said(PYTHONPYCACHEPREFIX=str(nowhere))
    assert elsewhere == ["", "", f"{tmp_path} cannot be written to"]
    assert said() == ["", "", ""]
    # Now it lies there.
    assert said(PYTHONDONTWRITEBYTECODE="1") == ["", "", ""]
