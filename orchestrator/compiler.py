"""XLA's TPU compiler in a process of its own: started, listened to, and never left behind.

See ``workers.compile_process`` for what runs there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from orchestrator.errors import CompilerError, ConfigError
from workers.compile_process import CompileOutcome, CompileRequest

__all__ = ["check_compiler", "run_compiler"]

_COMMAND = ("-m", "workers.compile_process")
_LAST_CHARACTERS = 600


def check_compiler() -> None:
    """Check that XLA's TPU compiler is installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise ConfigError(
            "compiling for TPUs needs the package libtpu, which holds XLA's TPU compiler (for "
            "Linux on x86-64; no TPU is needed): install emberay with the extra 'tpu'"
        )


def run_compiler(
    request: CompileRequest,
    seconds: float,
    report: Callable[[str], None] = lambda phase: None,
) -> CompileOutcome:
    """Compile in a process of its own, which is gone when this returns, however it does.

    Args:
        request: What to compile.
        seconds: Longest time to wait.
        report: Told ``lowering`` and ``compiling`` when each begins.

    Raises:
        ConfigError: The request cannot be used.
        CompilerError: The compiler took too long, or ended its process.
    """
    from workers.aot import COMPILER_ENVIRONMENT

    request = dataclasses.replace(request, parent=os.getpid())
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as answers, tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [sys.executable, *_COMMAND, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                env={**os.environ, **COMPILER_ENVIRONMENT, "PYTHONPATH": _python_path()},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            _say(process, request)
            deadline = time.monotonic() + seconds
            for answer in _lines(answers, deadline):
                match answer:
                    case {"phase": phase}:
                        report(phase)
                    case {"wrong": words}:
                        raise ConfigError(words)
                    case {"done": outcome}:
                        return CompileOutcome(**outcome)
            code = process.wait(max(0.1, deadline - time.monotonic()))
            output.seek(0)
            last = output.read().decode(errors="replace").strip()[-_LAST_CHARACTERS:]
            raise CompilerError(f"the TPU compiler ended its process ({_ended(code)}): {last}")
        except (TimeoutError, subprocess.TimeoutExpired):
            raise CompilerError(
                f"the TPU compiler did not end within {seconds:g} s; give it longer with --timeout"
            ) from None
        finally:
            _end(process)


def _say(process: subprocess.Popen[bytes], request: CompileRequest) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(dataclasses.asdict(request)).encode())
        process.stdin.close()
    except BrokenPipeError:  # it is gone: its end of the answers tells the rest
        return


def _lines(pipe: IO[bytes], deadline: float) -> Any:
    """Answers as they come, until the other end closes.

    Raises:
        TimeoutError: The deadline has passed.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            read = os.read(pipe.fileno(), 65536)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                said: Mapping[str, Any] = json.loads(line)
                yield said


def _python_path() -> str:
    """Programs are found where this process finds them."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109


def _ended(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all it started, if it is still there."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
