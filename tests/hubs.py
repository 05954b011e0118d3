"""A pretended model hub in a thread: repositories of folders, a commit each, and what was asked.

It answers what `huggingface_hub` asks for a model: files of a revision with their commit and their
hash, the description of a repository, and the list of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlparse

from endpoints import answered_by

MAIN = "main"


@dataclass
class Hub:
    """What a test sets and reads.

    Attributes:
        url: Address for the variable HF_ENDPOINT.
        commits: Commit → the folder with its files.
        head: Commit of the branch main.
        model: Its only model.
        sent: Commit and path of every file whose content was sent.
    """

    model: str
    url: str = ""
    commits: dict[str, Path] = field(default_factory=dict)
    head: str = ""
    sent: list[tuple[str, str]] = field(default_factory=list)

    def push(self, folder: Path) -> str:
        """Make the files of a folder the newest commit, and return it."""
        self.head = hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()
        self.commits[self.head] = folder
        return self.head


@contextlib.contextmanager
def hub(model: str) -> Iterator[Hub]:
    """Yield a running hub with one model and no commit."""
    known = Hub(model)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlparse(self.path).path).strip("/")
            if path.startswith(f"api/models/{model}"):
                self._described(path.removeprefix(f"api/models/{model}").strip("/").split("/"))
            elif path.startswith(f"{model}/resolve/"):
                revision, _, name = path.removeprefix(f"{model}/resolve/").partition("/")
                self._file(revision, name, with_body=with_body)
            else:
                self._missing("RepoNotFound")

        def _commit(self, revision: str) -> str | None:
            commit = known.head if revision == MAIN else revision
            return commit if commit in known.commits else None

        def _described(self, words: list[str]) -> None:
            commit = self._commit(words[1] if len(words) > 1 else MAIN)
            if commit is None:
                self._missing("RevisionNotFound")
                return
            names = sorted(path.name for path in known.commits[commit].iterdir())
            if words[0] == "tree":
                listed = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
                self._send(json.dumps(listed).encode(), {"content-type": "application/json"})
                return
            about = {
                "id": model, "modelId": model, "sha": commit, "private": False, "tags": [],
                "siblings": [{"rfilename": name} for name in names],
            }  # fmt: skip
            self._send(json.dumps(about).encode(), {"content-type": "application/json"})

        def _file(self, revision: str, name: str, *, with_body: bool) -> None:
            commit = self._commit(revision)
            if commit is None:
                self._missing("RevisionNotFound")
                return
            path = known.commits[commit] / name
            if not path.is_file():
                self._missing("EntryNotFound", commit)
                return
            content = path.read_bytes()
            headers = {
                "x-repo-commit": commit,
                "etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "accept-ranges": "bytes",
            }
            if with_body:
                known.sent.append((commit, name))
            self._send(content, headers, with_body=with_body)

        def _missing(self, code: str, commit: str = "") -> None:
            headers = {"x-error-code": code, **({"x-repo-commit": commit} if commit else {})}
            self._send(b"", headers, status=404)

        def _send(
            self, content: bytes, headers: dict[str, str], *, status: int = 200,
            with_body: bool = True,
        ) -> None:  # fmt: skip
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answered_by(Handler) as known.url:
        yield known
