import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import HostError, RunFailed
from orchestrator.hosts import host_actor
from orchestrator.hosts.host_actor import HostActor
from workers import protocol
from workers.errors import DataError


class CannotTravel(DataError):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class Host:
    def __init__(self, run, assignment, address):
        self.rank, self.address = assignment.rank, address

    def hello(self):
        return protocol.Hello(self.rank, os.getpid(), "node", f"{self.address}:5")

    def execute(self, command):
        match command:
            case protocol.Join():
                return protocol.Joined(self.rank, 1, 1)
            case protocol.Survey():
                raise DataError("no rows")
            case protocol.Finish():
                raise CannotTravel("a", "b")
            case _:
                raise {"step": OSError("disk full"), "none": TypeError("bad")}[
                    "none" if command.step is None else "step"
                ]

    def pulse(self):
        return protocol.Pulse(self.rank, os.getpid(), "idle", 0.0, 3, 1)

    def dump_stacks(self):
        return "stacks of the host"


@pytest.fixture
def actor(monkeypatch, tmp_path):
    monkeypatch.setattr(host_actor, "_redirect_output", lambda path, hide: None)
    monkeypatch.setitem(sys.modules, "hosts_for_test", sys.modules[__name__])
    run = protocol.RunSpec("p", {}, "d", str(tmp_path), 8, 1, 0, 1)
    return HostActor("hosts_for_test:Host", run, protocol.Assignment(2, 3, 0), "10.1.1.1")


def test_before_there_is_a_host_its_process_answers_for_it(actor):
    pulse = actor.pulse()
    assert (pulse.rank, pulse.pid, pulse.phase) == (2, os.getpid(), "starting")
    assert pulse.memory_bytes > 1 << 20
    assert "test_before_there_is_a_host" in actor.dump_stacks()
    outcome = actor.execute(protocol.Survey())
    assert isinstance(outcome.error, HostError)


def test_commands_end_in_a_reply_or_an_error_that_can_travel(actor):
    assert actor.start().reply == protocol.Hello(2, os.getpid(), "node", "10.1.1.1:5")
    assert actor.execute(protocol.Join("x")).reply == protocol.Joined(2, 1, 1)
    assert actor.pulse().step == 3
    assert actor.dump_stacks() == "stacks of the host"

    outcome = actor.execute(protocol.Survey())
    assert isinstance(outcome.error, DataError)
    assert "in execute" in outcome.traceback

    outcome = actor.execute(protocol.Finish())
    assert isinstance(outcome.error, HostError)
    assert outcome.error.type_name.endswith("CannotTravel")
    assert outcome.error.message == "a b"

    transient, mistake = (actor.execute(protocol.Restore(step)).error for step in (1, None))
    assert (transient.type_name, transient.transient) == ("OSError", True)
    assert (mistake.type_name, mistake.transient) == ("TypeError", False)


def test_a_factory_that_cannot_be_imported_is_a_mistake_to_report(tmp_path, monkeypatch):
    monkeypatch.setattr(host_actor, "_redirect_output", lambda path, hide: None)
    run = protocol.RunSpec("p", {}, "d", str(tmp_path), 8, 1, 0, 1)
    actor = HostActor("no_such_module:Host", run, protocol.Assignment(0, 1, 0), "x")
    error = actor.start().error
    assert isinstance(error, HostError)
    assert (error.type_name, error.transient) == ("ModuleNotFoundError", False)


def test_output_of_native_code_goes_to_the_log(tmp_path):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.hosts.host_actor import _redirect_output\n"
        "from workers.redaction import Redactor\n"
        f"_redirect_output(Path({str(tmp_path / 'logs' / 'host.log')!r}), Redactor(['python']))\n"
        "print('from python')\n"
        "os.write(2, b'from native code\\n')\n"
        "print('to stderr', file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    text = Path(tmp_path / "logs" / "host.log").read_text()
    assert sorted(text.splitlines()) == ["from (hidden)", "from native code", "to stderr"]


def test_errors_keep_their_parts_when_pickled():
    import pickle

    error = pickle.loads(pickle.dumps(RunFailed("because", {0: "died", 1: "idle"})))
    assert (error.cause, error.last_words) == ("because", {0: "died", 1: "idle"})
    assert str(error) == "because\n  host 0: died\n  host 1: idle"
    host_error = pickle.loads(pickle.dumps(HostError("KeyError", "'a'", False)))
    assert (host_error.type_name, host_error.message, host_error.transient) == (
        "KeyError",
        "'a'",
        False,
    )
    assert not HostError.of(RecursionError()).transient
    assert HostError.of(RuntimeError("x")).transient
