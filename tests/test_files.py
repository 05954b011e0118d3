"""Temporary files and folders: whose they are, and what a kill leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plop_lora.errors import OutputError
from plop_lora.files import _naming, atomic_file, atomic_folder, check_writable, remove_abandoned

_KILLED = """
import os, signal, sys
from pathlib import Path
from plop_lora.files import atomic_file, atomic_folder

where = Path(sys.argv[1])
with atomic_folder(where / "folder") as new:
    (new / "half").write_text("half")
    with atomic_file(where / "file") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _left_by_a_kill(folder: Path) -> list[Path]:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    return list(folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
@pytest.mark.parametrize("step", ["file", "folder"])
def test_what_a_kill_left_goes_with_the_next_write(tmp_path: Path, step: str) -> None:
    """Half-written files and whole copies of adapters stayed in the folder for ever."""
    assert len(_left_by_a_kill(tmp_path)) == 2
    if step == "file":
        with atomic_file(tmp_path / "new") as file:
            file.write("whole")
    else:
        with atomic_folder(tmp_path / "new") as new:
            (new / "inside").write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_what_is_under_way_stays(tmp_path: Path) -> None:
    """A second process must not remove what the first one is writing."""
    with atomic_file(tmp_path / "one") as file, atomic_folder(tmp_path / "two") as new:
        (new / "inside").write_text("x")
        with atomic_file(tmp_path / "three") as other:
            other.write("y")
        file.write("x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "two", "three"}


def test_only_our_own_names_are_removed(tmp_path: Path) -> None:
    """Names of others, of other machines and of links to somewhere else are left alone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours = _naming()["prefix"].replace(str(os.getpid()), str(gone.pid))
    keep = [".plop-00000000-1-x.tmp", f"{ours}x", ".scores.json.abc", "plop.tmp", "notes.tmp"]
    for name in keep:
        (tmp_path / name).write_text("x")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmp_path / f"{ours}link.tmp").symlink_to(precious)
    (tmp_path / f"{ours}file.tmp").write_text("x")
    remove_abandoned(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {*keep, "precious"}
    assert (precious / "file").exists()
    remove_abandoned(tmp_path / "absent")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "your share of the disk is used up"),
        (errno.EROFS, "the disk is mounted read-only"),
        (errno.EACCES, "you have no right to write there"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.ENOTDIR, "a part of the path is a file"),
    ],
)
def test_the_systems_codes_are_told_in_words(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code and the system's two words for it say nothing of what to do."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("TemporaryFile", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", fail)
    with pytest.raises(OutputError, match=words) as caught:
        check_writable(tmp_path / "scores.json")
    assert "Errno" not in str(caught.value)
    with pytest.raises(OutputError, match=words), atomic_file(tmp_path / "scores.json"):
        pass
