"""What JAX lets be kept of a step that was compiled for TPUs that are not there.

docs/tpu.md says so. When one of these fails with another JAX, more may have become possible.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from workers.aot import COMPILER_ENVIRONMENT

COMPILE = """
import json, sys, warnings
import jax, numpy as np
from jax.experimental import serialize_executable, topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

folder = sys.argv[1]
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
devices = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2").devices
rows = NamedSharding(Mesh(np.array(devices), ("x",)), PartitionSpec("x"))
shape = jax.ShapeDtypeStruct((1024, 64), np.float32, sharding=rows)
step = jax.jit(lambda x: (x @ x.T).sum(0), in_shardings=rows, out_shardings=rows)
compiled = step.trace(shape).lower(lowering_platforms=("tpu",)).compile()
parts = serialize_executable.serialize(compiled)
try:
    serialize_executable.deserialize_and_load(
        *parts, backend=devices[0].client, execution_devices=list(devices)
    )
    loading = "loaded"
except jax.errors.JaxRuntimeError as error:
    loading = str(error)
print(json.dumps({
    "bytes": len(parts[0]), "loading": loading, "client": devices[0].client.platform_version,
}))
"""


@pytest.mark.system
@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: extra 'tpu'")
def test_a_step_can_be_kept_but_not_loaded_without_chips(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path)],
        env=os.environ | dict(COMPILER_ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] > 10_000
    assert "must be constructed with a Client" in found["loading"]
    # JAX's cache gets an entry, but under the name of a client that no machine with chips has:
    # XLA begins theirs with the line "PJRT C API" (PjRtCApiClient).
    assert len(list(tmp_path.glob("jit__lambda*-cache"))) == 1
    assert found["client"].startswith("TFRT TPU v6 lite\n")
