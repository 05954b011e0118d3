"""The installation: versions, devices, caches, and what the verbs would use here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plop_lora.records.base import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line on the installation.

    `sound` is False where a verb cannot work as it is installed, and `advice` is then what to do.
    An extra that is not installed is sound: its `advice` is the command that installs it.
    """

    area: str
    name: str
    value: str
    sound: bool = True
    advice: str = ""


@dataclass(frozen=True, repr=False, kw_only=True)
class Installation(Record):
    """What is installed and what would be used. It holds no token."""

    kind: ClassVar[str] = "installation"

    findings: tuple[Finding, ...]
    plop_version: str

    @property
    def sound(self) -> bool:
        """Whether everything that is needed is there."""
        return all(finding.sound for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 sound, 1 something that is needed is missing or too old."""
        return 0 if self.sound else 1
