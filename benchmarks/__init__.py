"""One file for every claim: ratios against named rivals, measured in the same run."""

import os

# Before JAX starts: it would look for TPUs where their compiler is installed.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
