"""What all tests share: eight CPU devices, set up before JAX starts its backend."""

from __future__ import annotations

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
