"""Looking into a process that does not answer."""

import os
import signal
import subprocess
import sys

from orchestrator.hosts import outside_stacks as module
from orchestrator.hosts.outside_stacks import outside_stacks

CODE = """
import time
def waits_for_ever():
    print("ready", flush=True)
    time.sleep(600)
waits_for_ever()
"""


def test_a_stopped_process_is_looked_into():
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            os.kill(process.pid, signal.SIGSTOP)
            text = outside_stacks(process.pid)
            # Where one process may not look into another, the text says so.
            assert "waits_for_ever" in text or "CAP_SYS_PTRACE" in text, text
        finally:
            process.kill()


def test_what_cannot_be_had_is_said(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert "could not look into it" in outside_stacks(process.pid)
    monkeypatch.setattr(module.Path, "exists", lambda path: False)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert "py-spy, which could look into it, is missing" in outside_stacks(1)
