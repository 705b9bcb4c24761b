"""Which backend CPUs get, with the C++ kernels and without."""

from __future__ import annotations

import shutil
import warnings

import pytest

from kernels.backends import cpu_choice, cpu_kernels_are_built, select_backend
from kernels.errors import SpecError


def test_the_kernels_are_built_where_there_is_a_compiler():
    assert cpu_kernels_are_built() or shutil.which("c++") is None
    if cpu_kernels_are_built():
        assert select_backend("cpu").name == "cpu"


def test_the_choice_is_the_users(monkeypatch):
    monkeypatch.setenv(cpu_choice.CPU_BACKEND, "xla")
    assert select_backend("cpu").name == "xla"
    monkeypatch.setenv(cpu_choice.CPU_BACKEND, "abacus")
    with pytest.raises(SpecError, match="set it to 'cpu', 'xla' or 'auto'"):
        select_backend("cpu")


def test_without_the_kernels_plain_jax_takes_over_and_says_so_once(monkeypatch):
    cpu_choice._select.cache_clear()
    monkeypatch.setattr(cpu_choice, "cpu_kernels_are_built", lambda: False)
    monkeypatch.setenv(cpu_choice.CPU_BACKEND, "auto")
    try:
        with pytest.warns(RuntimeWarning, match="were not built"):
            assert select_backend("cpu").name == "xla"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert select_backend("cpu").name == "xla"
        monkeypatch.setenv(cpu_choice.CPU_BACKEND, "cpu")
        with pytest.raises(SpecError, match="install a C\\+\\+ compiler"):
            select_backend("cpu")
    finally:
        cpu_choice._select.cache_clear()
