import http.client
import os
import signal
import stat
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.config import ClusterConfig
from orchestrator.errors import HostError
from orchestrator.hosts.interface import Answered, Died, PulseSeen, Raised, StacksSeen
from orchestrator.ray_session import RaySession
from workers import protocol
from workers.errors import DataError

pytestmark = pytest.mark.system

HOSTS = 2
DEVICES = 3


@pytest.fixture(scope="module")
def session():
    import ray

    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    known = {name: value for name, value in os.environ.items() if "AUTH" in name}
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *sys.path])
    try:
        with RaySession(ClusterConfig(), hosts=HOSTS):
            folder = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
            yield folder
        assert not folder.exists()
        # The next cluster has another token.
        assert {name: value for name, value in os.environ.items() if "AUTH" in name} == known
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def groups(session, tmp_path):
    """Makes groups of hosts for a run; closes them."""
    from orchestrator.hosts.ray_hosts import RayHosts

    made = []

    def make(config=None, **changed):
        run = protocol.RunSpec(
            **{
                "program": "none:none",
                "parameters": {},
                "data": "none",
                "run_folder": str(tmp_path),
                "batch_size": 8,
                "epochs": 1,
                "seed": 0,
                "devices_per_host": DEVICES,
                "join_timeout": 20.0,
                **changed,
            }
        )
        settings = config or ClusterConfig()
        made.append(RayHosts(run, settings, pulse_interval=0.1, factory="fake_host:FakeHost"))
        return made[-1]

    yield make
    for group in made:
        group.close()


@pytest.fixture
def group(groups):
    return groups()


def launch(group, number=0):
    group.launch([protocol.Assignment(rank, HOSTS, number) for rank in range(HOSTS)])
    seen = collect(group, lambda seen: len(of(seen, Answered)) == HOSTS, 180.0)
    return {answer.rank: answer.reply for answer in of(seen, Answered)}


def collect(group, enough, seconds):
    """Poll until ``enough`` holds of everything seen."""
    seen = []
    deadline = time.monotonic() + seconds
    while not enough(seen):
        assert time.monotonic() < deadline, f"only {seen} within {seconds} s"
        seen += group.poll(0.2)
    return seen


def of(seen, kind):
    return [observation for observation in seen if isinstance(observation, kind)]


def exists(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


CALLS = (
    *("NodeInfoGcsService/GetAllNodeInfo", "ActorInfoGcsService/RegisterActor"),
    *("InternalKVGcsService/InternalKVPut", "NodeManagerService/RequestWorkerLease"),
    *("CoreWorkerService/PushTask", "ObjectManagerService/Push", "ReporterService/GetTraceback"),
)
"""Of each of Ray's services, one that could do harm."""


def listening():
    """(port, address) of all that the processes of the cluster listen to, and this one.

    The cluster that other tests share has other tokens.
    """
    found, me, shared = set(), psutil.Process(), set()
    for child in me.children():
        with suppress(psutil.NoSuchProcess):  # which ends just now
            if "ray.scripts.scripts" in child.cmdline():
                shared |= {child, *child.children(recursive=True)}
    for process in {me, *me.children(recursive=True)} - shared:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((connection.laddr.port, connection.laddr.ip))
    return found


def pulses_of(seen, phase=""):
    """How often each rank was heard of, in a phase."""
    told = [p.rank for p in of(seen, PulseSeen) if p.pulse.phase.startswith(phase)]
    return [told.count(rank) for rank in range(HOSTS)]


def answers_to_calls(address, token):
    """What gRPC calls with this token are answered."""
    import grpc

    known = [("authorization", f"Bearer {token}")] if token else None
    as_is = {"request_serializer": bytes, "response_deserializer": bytes}
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        for call in CALLS:
            try:
                ask = channel.unary_unary(f"/ray.rpc.{call}", **as_is)
                ask(b"", timeout=30, metadata=known, wait_for_ready=True)
                yield "OK"
            except grpc.RpcError as error:
                yield error.code().name


def answer_to_request(address):
    """Begin of an answer, or the number of a refusal; None of what does not speak HTTP."""
    try:
        return urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read(6)
    except urllib.error.HTTPError as error:
        return error.code
    except (http.client.HTTPException, ConnectionResetError):
        return None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionResetError):
            return None
        raise


def test_a_local_cluster_obeys_only_those_who_know_its_token(session):
    import ray

    # Nobody else gets at its sockets, nor at what its workers load.
    assert stat.S_IMODE(session.stat().st_mode) == 0o700
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    ip, asked = ray.util.get_node_ip_address(), set()
    for port, at in listening():
        address = f"{ip if at in ('::', '0.0.0.0') else at}:{port}"
        answer = answer_to_request(address)
        if answer is None:
            for token in ("", "0" * 64):
                seen = set(answers_to_calls(address, token))
                assert seen <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}
                assert "UNAUTHENTICATED" in seen
        else:
            # Figures for Prometheus, and nothing else, are told to everybody.
            assert answer in (b"# HELP", 401)
        asked.add(answer)
    assert {None, 401} <= asked


def test_hosts_work_pulse_report_errors_and_die(group, tmp_path):
    import ray

    hellos = launch(group)
    assert {hello.rank for hello in hellos.values()} == {0, 1}
    assert len({hello.pid for hello in hellos.values()} | {os.getpid()}) == 3
    assert {hello.node for hello in hellos.values()} == {ray.get_runtime_context().get_node_id()}

    group.send(protocol.Join("nowhere:1"))
    seen = collect(group, lambda seen: len(of(seen, Answered)) == HOSTS, 60.0)
    joined = sorted((answer.reply for answer in of(seen, Answered)), key=lambda reply: reply.rank)
    assert joined == [protocol.Joined(rank, DEVICES, DEVICES * HOSTS) for rank in range(HOSTS)]

    group.send(protocol.Restore(None))
    seen = collect(group, lambda seen: len(of(seen, Raised)) == HOSTS, 60.0)
    for raised in of(seen, Raised):
        assert isinstance(raised.error, DataError)
        assert str(raised.error) == f"rank {raised.rank} has no data"
        assert "fake_host.py" in raised.traceback

    group.send(protocol.Finish())
    seen = collect(group, lambda seen: len(of(seen, Raised)) == HOSTS, 60.0)
    error = of(seen, Raised)[0].error
    assert isinstance(error, HostError)
    assert (error.type_name, error.transient) == ("KeyError", False)

    assert "host 1 says something" in (tmp_path / "logs/launch-0-host-1.log").read_text()
    assert "mistake in code" in group.last_words(1)

    # Pulses go on while a command runs, and a host that is killed is reported once.
    group.send(protocol.Survey())
    seen = collect(group, lambda seen: min(pulses_of(seen, "surveying")) > 3, 60.0)
    assert not of(seen, Answered)
    assert {p.pulse.pid for p in of(seen, PulseSeen)} == {h.pid for h in hellos.values()}

    stacks, deadline = "", time.monotonic() + 60
    while not stacks.endswith("threads"):  # one that is slow to answer is read from outside
        assert time.monotonic() < deadline, stacks
        group.dump_stacks(0)
        stacks = of(collect(group, lambda seen: of(seen, StacksSeen), 60.0), StacksSeen)[0].text

    os.kill(hellos[1].pid, signal.SIGKILL)
    seen = collect(group, lambda seen: of(seen, Died), 60.0)
    seen += [observation for _ in range(10) for observation in group.poll(0.1)]
    died = of(seen, Died)
    assert [death.rank for death in died] == [1]
    assert died[0].reason


def test_a_stopped_host_falls_silent_and_is_killed_with_the_others(group):
    hellos = launch(group)
    os.kill(hellos[0].pid, signal.SIGSTOP)
    collect(group, lambda seen: pulses_of(seen)[1] > 3, 60.0)
    seen = collect(group, lambda seen: pulses_of(seen)[1] > 3, 60.0)
    assert pulses_of(seen)[0] == 0
    assert not of(seen, Died)

    group.dump_stacks(0)
    seen = collect(group, lambda seen: of(seen, StacksSeen), 60.0)
    (stacks,) = of(seen, StacksSeen)
    assert stacks.rank == 0
    # Where one process may not look into another, the text says so.
    assert "Thread" in stacks.text or "CAP_SYS_PTRACE" in stacks.text

    group.kill_all()
    assert not any(exists(hello.pid) for hello in hellos.values())
    assert group.poll(0.1) == []

    again = launch(group, number=1)
    assert not {hello.pid for hello in again.values()} & {hello.pid for hello in hellos.values()}


def test_spares_take_over_at_the_next_launch(groups, tmp_path):
    import ray

    group = groups(ClusterConfig(spares=HOSTS), program="fake_host:program")
    hellos = launch(group)
    for lease in range(2):
        # All wait for the first lease, so the spares do not start before the second.
        assert not group._spares
        group.send(protocol.RunLease(protocol.Lease(lease, "plan", 0, 1)))
        collect(group, lambda seen: len(of(seen, Raised)) == HOSTS, 60.0)
    ray.get([spare.warmed for spare in group._spares], timeout=240)
    group.kill_all()
    ready = time.time()
    again = launch(group, number=1)
    pids = {hello.pid for hello in again.values()}
    assert not pids & {hello.pid for hello in hellos.values()}
    assert all(psutil.Process(pid).create_time() < ready for pid in pids)
    assert not group._spares
    for rank in range(HOSTS):
        log = (tmp_path / f"logs/launch-1-host-{rank}.log").read_text()
        assert f"host {rank} says something" in log
    seen = collect(group, lambda seen: min(pulses_of(seen)) > 1, 60.0)
    assert {pulse.pulse.pid for pulse in of(seen, PulseSeen)} == pids


def test_a_host_whose_process_cannot_start_says_why(groups, tmp_path):
    (tmp_path / "file").write_text("no folder")
    group = groups(run_folder=str(tmp_path / "file"))
    group.launch([protocol.Assignment(0, 1, 0)])
    seen = collect(group, lambda seen: of(seen, Died), 120.0)
    assert "NotADirectoryError" in of(seen, Died)[0].reason
    assert str(tmp_path / "file") in of(seen, Died)[0].reason
