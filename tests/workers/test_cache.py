"""Folders whose content is run: nobody else may have written to them."""

import os
import stat

import pytest

from workers import cache
from workers.cache import make_private, not_private


@pytest.fixture
def home(tmp_path):
    """A folder that others may not write to, whatever the tests' folder is like."""
    tmp_path.chmod(0o700)
    return tmp_path


def test_folders_are_made_for_their_user_alone(home):
    before = os.umask(0)
    try:
        make_private(home / "a" / "b")
        make_private(home / "a" / "b")
    finally:
        os.umask(before)
    for folder in (home / "a", home / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not_private(home / "a" / "b") == ""


@pytest.mark.parametrize(
    ("upper", "lower", "safe"),
    [
        (0o755, 0o755, True),
        (0o755, 0o757, False),
        (0o757, 0o700, False),
        (0o1777, 0o700, True),  # as /tmp is
        (0o700, 0o1777, False),
    ],
)
def test_folders_that_others_may_write_to(home, upper, lower, safe):
    make_private(home / "a" / "b")
    (home / "a" / "b").chmod(lower)
    (home / "a").chmod(upper)
    said = not_private(home / "a" / "b")
    if safe:
        assert said == ""
    else:
        place = home / "a" / "b" if lower & 0o002 else home / "a"
        assert said == f"others may write to '{place}': chmod go-w '{place}'"


@pytest.mark.parametrize("own", [True, False])
def test_the_group_counts_unless_it_is_the_users_own(home, own, monkeypatch):
    make_private(home / "a")
    (home / "a").chmod(0o770)
    monkeypatch.setattr(cache, "_is_own_group", lambda group, user: own)
    assert (not_private(home / "a") == "") == own


def test_a_link_counts_as_what_it_leads_to(home):
    make_private(home / "theirs")
    (home / "theirs").chmod(0o777)
    (home / "mine").symlink_to(home / "theirs")
    assert "others may write" in not_private(home / "mine")


def test_a_folder_of_another_user(home, monkeypatch):
    make_private(home / "a")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not_private(home / "a").endswith(", not to user 12345")


def test_jax_does_not_use_such_a_folder(home, monkeypatch, capfd):
    import jax

    from workers.compilation import use_compilation_cache

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("EMBERAY_CACHE", str(home / "cache"))
    make_private(home / "cache")
    (home / "cache").chmod(0o777)
    assert use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir == before
    said = capfd.readouterr().out
    assert f"compiled steps are not kept, as others may write to '{home / 'cache'}'" in said
