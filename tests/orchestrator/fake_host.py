"""A host without JAX, made inside Ray actors by ``test_ray_hosts``."""

import os
import socket
import threading
import time

from workers import protocol
from workers.errors import DataError


class FakeHost:
    def __init__(self, run, assignment, address):
        self.run, self.assignment, self.address = run, assignment, address
        self.phase = "idle"
        print(f"host {assignment.rank} says something", flush=True)

    def hello(self):
        rank = self.assignment.rank
        return protocol.Hello(rank, os.getpid(), socket.gethostname(), f"{self.address}:1")

    def execute(self, command):
        rank = self.assignment.rank
        match command:
            case protocol.Join():
                devices = int(os.environ["JAX_NUM_CPU_DEVICES"])
                return protocol.Joined(rank, devices, devices * self.assignment.hosts)
            case protocol.Survey():
                self.phase = "surveying"
                time.sleep(self.run.join_timeout)
                return protocol.Surveyed(rank, 10, 1, {})
            case protocol.Restore():
                raise DataError(f"rank {rank} has no data")
            case _:
                raise KeyError("mistake in code")

    def pulse(self):
        return protocol.Pulse(self.assignment.rank, os.getpid(), self.phase, 0.0, 0, 1)

    def dump_stacks(self):
        return f"{threading.active_count()} threads"
