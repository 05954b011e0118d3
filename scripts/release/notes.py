"""Print what the changelog says of a version, as the text of its release.

    python scripts/release/notes.py v0.1.0

Refuses a tag that is not the version of the package, and a section of the changelog that is
missing, empty or still says that it is unreleased. Imports the standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = ROOT / "src" / "plop_lora" / "_version.py"
CHANGELOG = ROOT / "CHANGELOG.md"
CITATION = ROOT / "CITATION.cff"


class NotesError(Exception):
    """A tag that cannot be released."""


def package_version(text: str) -> str:
    """Return the version that `_version.py` sets."""
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise NotesError(f"{VERSION.name} sets no __version__.")
    return found[1]


def notes(tag: str, version: str, changelog: str, citation: str) -> str:
    """Return the section of a version, without its heading.

    Raises:
        NotesError: The tag, the package, the citation and the changelog do not agree.
    """
    if tag != f"v{version}":
        raise NotesError(f"The tag is {tag}, but the package has version {version}.")
    if f"version: {version}" not in citation.splitlines():
        raise NotesError(f"CITATION.cff does not say version: {version}.")
    for section in changelog.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        if heading.split(" ")[0] == version:
            return _checked(heading, text.strip())
    raise NotesError(f"CHANGELOG.md has no section {version}.")


def _checked(heading: str, text: str) -> str:
    if not re.fullmatch(r"\S+ \(\d{4}-\d{2}-\d{2}\)", heading):
        raise NotesError(
            f"CHANGELOG.md says {heading!r}; write the day of the release, as in "
            f"{heading.split(' ')[0]} (2026-01-31)."
        )
    if not text:
        raise NotesError(f"The section {heading} of CHANGELOG.md is empty.")
    return f"{text}\n"


def main() -> int:
    """Print the notes; the exit code is 1 where the tag cannot be released."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tag")
    tag = parser.parse_args().tag
    texts = [path.read_text(encoding="utf-8") for path in (VERSION, CHANGELOG, CITATION)]
    try:
        print(notes(tag, package_version(texts[0]), texts[1], texts[2]), end="")
    except NotesError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
