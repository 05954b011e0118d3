"""A workflow for GitHub Actions that gates an adapter on pull requests that change it.

Imports the standard library and PyYAML.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

import yaml

from plop_lora._version import __version__
from plop_lora.errors import UsageError

_HEAD = (
    "# Written by plop ci init. The exit code of the gate decides: 0 passes; 3 (a check fails)\n"
    "# and 4 (not enough data) stop the pull request.\n"
)


def workflow(recipe: str, adapter: str) -> str:
    """Return the workflow as YAML.

    Args:
        recipe: Path of the recipe in the repository.
        adapter: Folder of the adapter in the repository; a change in it starts the workflow.

    Raises:
        UsageError: A path is absolute or leads out of the repository.
    """
    for path in (recipe, adapter):
        _check(path)
    gate = shlex.join(["plop", "gate", adapter, "--recipe", recipe])
    report = "plop report verdict.json -o report"
    comment = 'gh pr comment "$NUMBER" --body-file report.md --edit-last --create-if-none'
    numbers = {"GH_TOKEN": "${{ github.token }}", "NUMBER": "${{ github.event.number }}"}
    always = {"if": "always()"}
    steps = [
        {"uses": "actions/checkout@v4", "with": {"lfs": True}},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.11"}},
        {"run": f"pip install 'plop-lora[all]=={__version__}'"},
        {"name": "What the gate could decide", "run": f"{gate} --plan"},
        {"name": "Gate", "run": f"{gate} -o verdict.json"},
        {"name": "Report", **always, "run": f"{report}.html\n{report}.md\n"},
        {
            "uses": "actions/upload-artifact@v4",
            **always,
            "with": {"name": "plop", "path": "report.html\nverdict*.json*\n"},
        },
        {"name": "Post the report", **always, "env": numbers, "run": comment},
    ]
    document = {
        "name": "plop",
        "on": {"pull_request": {"paths": [f"{adapter.rstrip('/')}/**", recipe]}},
        "permissions": {"contents": "read", "pull-requests": "write"},
        "jobs": {"gate": {"runs-on": "ubuntu-latest", "steps": steps}},
    }
    return _HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=96)


def _check(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "~")) or ".." in parts:
        raise UsageError(
            f"{path!r} has to be a path within the repository, such as adapters/next, because the "
            "workflow runs in a copy of it."
        )
