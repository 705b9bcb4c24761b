"""The examples of docs/layers.md, run as they stand, by a user's own script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CHECKS = """
for losses in (losses, nnx_losses):
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]), losses
before, after = (m.embed.embedding_table.get_value() for m in (nnx_model, again))
jax.tree.map(np.testing.assert_array_equal, before, after)
assert jax.device_count() == 4
assert means.shape == (BATCH, 8)
assert (np.asarray(means)[::6] == 0).all(), "these histories are empty"
"""


def test_the_examples_run_and_learn(tmp_path):
    page = (ROOT / "docs" / "layers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    script = tmp_path / "script.py"
    script.write_text("\n".join([*blocks, CHECKS]))
    ours = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "PYTHONPATH": str(ROOT),
        # Quick to compile: the steps are few.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    done = subprocess.run(
        [sys.executable, script], env=os.environ | ours, cwd=tmp_path, timeout=240,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"linen: loss .* → .*\nnnx: loss .* → ", done.stdout), done.stdout
