"""A workflow for GitHub Actions that runs a recipe on pull requests that change an adapter.

Imports the standard library and PyYAML.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

import yaml

from plop_lora._version import __version__
from plop_lora.errors import UsageError

WHERE = ".github/workflows/plop.yml"
_MARK = "<!-- plop-lora -->"


def workflow(recipe: str, adapter: str, *, folder: str = "plop-run") -> str:
    """Return the workflow as YAML.

    Args:
        recipe: Path of the recipe in the repository.
        adapter: Folder of the adapter in the repository; a change in it starts the workflow.
        folder: Folder of the run on the runner.

    Raises:
        UsageError: A path is absolute or leads out of the repository.
    """
    for path in (recipe, adapter):
        _check(path)
    run = shlex.join(["plop", "run", recipe, "--folder", folder, "--adapter", adapter])
    steps = [
        {"uses": "actions/checkout@v4", "with": {"lfs": True}},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.11"}},
        {"run": f"pip install 'plop-lora[all]=={__version__}'"},
        {"name": "What would run", "run": f"{run} --dry-run"},
        {"name": "Gate", "id": "gate", "run": run},
        {
            "name": "Report",
            "if": "always()",
            "run": f"plop report {shlex.quote(folder)} -o report.html && "
            f"plop report {shlex.quote(folder)} -o report.md && "
            f"printf '%s\\n\\n' {shlex.quote(_MARK)} | cat - report.md > comment.md",
        },
        {
            "uses": "actions/upload-artifact@v4",
            "if": "always()",
            "with": {"name": "plop", "path": f"report.html\n{folder}/**/*.json\n"},
        },
        {
            "name": "Post the report",
            "if": "always()",
            "env": {"GH_TOKEN": "${{ github.token }}", "NUMBER": "${{ github.event.number }}"},
            "run": 'gh pr comment "$NUMBER" --body-file comment.md --edit-last '
            '--create-if-none',
        },
    ]  # fmt: skip
    document = {
        "name": "plop",
        "on": {"pull_request": {"paths": [f"{adapter.rstrip('/')}/**", recipe]}},
        "permissions": {"contents": "read", "pull-requests": "write"},
        "jobs": {"gate": {"runs-on": "ubuntu-latest", "steps": steps}},
    }
    head = (
        "# Written by plop ci init. The exit code of plop run decides: 0 passes; 3 (the gate\n"
        "# fails), 4 (something is undecided) and 5 (a rival was better) stop the pull request.\n"
    )
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=96)


def _check(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "~")) or ".." in parts:
        raise UsageError(
            f"{path!r} has to be a path within the repository, such as adapters/next, because the "
            "workflow runs in a copy of it."
        )
