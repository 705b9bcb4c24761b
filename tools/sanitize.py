r"""Run tests against the C++ parts built with a sanitizer of the compiler.

    uv run --with nanobind==3.1.0 --with cmake==4.4.5 --with ninja==1.13.2 \
        python tools/sanitize.py address|thread [pytest arguments]

Builds into ``build/<sanitizer>``, loads those modules in place of the installed ones, and runs
pytest with the sanitizer's library loaded first. Without pytest arguments it runs the tests of the
native preprocessing, with a longer fuzz, those of its minibatches and those of the CPU backend.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
SUPPRESSIONS = ROOT / "tools" / "thread_sanitizer.txt"
OPTIONS = {
    # Python's own allocations are not all freed at exit.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_mutex_bugs=0:detect_deadlocks=0:"
    f"suppressions={SUPPRESSIONS}",
}
DEFAULT_TESTS = ["-q", "-p", "no:cacheprovider"] + [
    f"tests/kernels/test_{name}.py"
    for name in ("native_engine", "preprocessing_minibatching", "cpu_backend")
]
FUZZ_EXAMPLES = "2000"


def build(sanitizer: str) -> Path:
    """Compile, and return the folder of the modules."""
    folder = ROOT / "build" / sanitizer
    configure = ["cmake", "-S", ROOT, "-B", folder, f"-DEMBERAY_SANITIZE={sanitizer}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--parallel", "2"], check=True)
    return folder


def path_of(compiler: str, library: str) -> str:
    """Where the compiler keeps a library."""
    command = [compiler, f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def load(folder: Path) -> None:
    """Put the modules of a folder in the place of the installed ones."""
    import kernels

    for path in folder.glob("_*.so"):
        name = "kernels." + path.name.split(".")[0]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(kernels, name.split(".")[1], module)


def main() -> int:
    """Build, and run again with the sanitizer's library loaded; there, run pytest."""
    sanitizer, *arguments = sys.argv[1:] or [""]
    if sanitizer not in LIBRARIES:
        print(__doc__)
        return 2
    folder = ROOT / "build" / sanitizer
    if os.environ.get("EMBERAY_SANITIZED") == sanitizer:
        import pytest

        sys.path.insert(0, str(ROOT))
        load(folder)
        # Capturing only what Python prints lets the sanitizer's report be seen.
        return int(pytest.main(["--capture=sys", *(arguments or DEFAULT_TESTS)]))
    build(sanitizer)
    compiler = os.environ.get("CXX", "c++")
    # libstdc++ too: the sanitizer looks for it at the start, before Python has loaded it.
    preloaded = " ".join(
        path_of(compiler, name) for name in (LIBRARIES[sanitizer], "libstdc++.so.6")
    )
    environment = os.environ | OPTIONS | {"LD_PRELOAD": preloaded, "EMBERAY_SANITIZED": sanitizer}
    environment.setdefault("EMBERAY_FUZZ_EXAMPLES", FUZZ_EXAMPLES)
    environment.setdefault("EMBERAY_PREPROCESSING_THREADS", "4")
    return subprocess.call(
        [sys.executable, __file__, sanitizer, *arguments], env=environment, cwd=ROOT
    )


if __name__ == "__main__":
    sys.exit(main())
