"""A PostgreSQL server of its own for tests, in a temporary folder on a socket of its own.

The server refuses to run as root, so that it is started as `postgres` or `nobody` there. Nothing is
left when it is stopped. Imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg

_DEBIAN = Path("/usr/lib/postgresql")
_PASSWORD = "s3cret word"


class UnavailableError(Exception):
    """Why there is no server on this machine."""


class Server:
    """A server that is started, stopped and started again; `close` removes it."""

    def __init__(self, *, durable: bool = False) -> None:
        """Start a server; one that is not `durable` survives a kill, but no loss of power."""
        self.bin = _programs()
        self._user = _user()
        self._numbers = itertools.count()
        self._durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="plop-pg-"))  # a path of a socket is short
        try:
            if self._user is not None:
                os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            secret = self.folder / "password"
            secret.write_text(_PASSWORD)
            secret.chmod(0o644)
            self._run(
                "initdb", "-D", self.data, "-U", "plop", "-A", "scram-sha-256",
                f"--pwfile={secret}", "-E", "UTF8", "--no-sync",
            )  # fmt: skip
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def data(self) -> str:
        """Folder of the data."""
        return str(self.folder / "data")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder}"
        options += "" if self._durable else " -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self.data, "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` is what a crash is, and it recovers at its next start."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def close(self) -> None:
        """Stop the server and remove its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):  # a test has stopped it
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self) -> str:
        """Return the address of a new, empty schema, which a client takes for a database."""
        name = f"plop{next(self._numbers)}"
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.address}&options=-csearch_path%3D{name}"

    @property
    def address(self) -> str:
        """The address of the database that all schemas are in."""
        folder = quote(str(self.folder), safe="")
        return f"postgresql://plop:{quote(_PASSWORD)}@/postgres?host={folder}"

    def _run(self, program: str, *words: str) -> None:
        command: Sequence[str] = [str(self.bin / program), *words]
        if self._user is not None:
            group = str(self._user.pw_gid)
            become = ["setpriv", "--reuid", str(self._user.pw_uid), "--regid", group]
            command = [*become, "--clear-groups", *command]
        # A server that inherits a pipe would keep it open, and this would wait for its end.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self.folder,
                check=False,
            )  # fmt: skip
            said.seek(0)
            if done.returncode:
                raise subprocess.CalledProcessError(done.returncode, command, said.read())


def _programs() -> Path:
    """Return the folder of the newest server's programs."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    if not versions:
        raise UnavailableError("PostgreSQL is not installed; Debian has it as `postgresql`")
    return max(versions, key=lambda path: float(path.parent.name))


def _user() -> pwd.struct_passwd | None:
    """Return the user to run as where this one is root, else None."""
    if os.geteuid():
        return None
    if shutil.which("setpriv") is None:
        raise UnavailableError("this user is root, and there is no `setpriv` to become another one")
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UnavailableError("this user is root, and there is no user `postgres` or `nobody`")
