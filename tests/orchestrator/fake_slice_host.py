"""A host without JAX on pretended TPUs or GPUs: tells its environment instead of stacks."""

import json
import os
import socket

from workers import protocol


class FakeSliceHost:
    def __init__(self, run, assignment, address):
        self.assignment, self.address = assignment, address

    def hello(self):
        rank = self.assignment.rank
        return protocol.Hello(rank, os.getpid(), socket.gethostname(), f"{self.address}:1")

    def execute(self, command):
        return protocol.Finished(self.assignment.rank, ())

    def pulse(self):
        return protocol.Pulse(self.assignment.rank, os.getpid(), "idle", 0.0, 0, 1)

    def dump_stacks(self):
        names = ("MEGASCALE_", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
        return json.dumps({k: v for k, v in os.environ.items() if k.startswith(names)})
