"""The text of a data file, line by line: plain, compressed with gzip, or from standard input.

One line is in memory at a time. A file that is no UTF-8 text is recognised by its first bytes, and
the error gives the command that converts it. Imports neither torch nor pyarrow.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from plop_lora.errors import DataError, UsageError
from plop_lora.models.folders import LFS_POINTER

STDIN = "-"
"""The source that stands for standard input."""
LONGEST_LINE = 1 << 26
"""Most characters of a line. A longer one is no text to score, or a file made to fill memory."""
_HEAD = 1 << 12
_GZIP = b"\x1f\x8b"
_KINDS = {
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save its sheet as CSV",
    b"BZh": "compressed with bzip2; unpack it: bunzip2 {path}",
    b"\xfd7zXZ": "compressed with xz; unpack it: unxz {path}",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it: unzstd {path}",
    b"GGUF": "the weights of a model; --data wants texts",
    b"%PDF": "a PDF; save its text",
    LFS_POINTER: "a pointer of Git LFS and not the file itself; fetch it: git lfs pull",
}
_WIDE = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class DataFile:
    """A file of rows that can be read more than once, whatever it comes from.

    Attributes:
        path: Path of the file.
        name: Name of the file in errors.
        suffix: Suffix in lower case that tells the format, without the .gz of a compressed file;
            empty where the name has none.
    """

    def __init__(self, source: str) -> None:
        """Name a file, or "-" for standard input.

        Raises:
            UsageError: Standard input is a terminal, so that the command would wait for typed rows.
        """
        self.path = Path(source)
        self.name = "standard input" if source == STDIN else source
        self._stdin = source == STDIN
        self._kept: IO[bytes] | None = None
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes[-1:] == [".gz"]:
            suffixes.pop()
        self.suffix = "" if self._stdin or not suffixes else suffixes[-1]
        if self._stdin and sys.stdin.isatty():
            raise UsageError(
                "--data - reads standard input, which is a terminal here. Send it something: "
                "zcat texts.jsonl.gz | plop score MODEL --data -"
            )

    def __str__(self) -> str:
        """Return the name of the file in errors."""
        return self.name

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file at its beginning, decompressed.

        Raises:
            DataError: It cannot be read, or its name says .gz and it is not.
        """
        try:
            with self._raw() as raw:
                packed = raw.read(len(_GZIP)) == _GZIP
                raw.seek(0)
                if not packed and self.path.suffix.lower() == ".gz":
                    raise DataError(
                        f"{self} is not compressed with gzip, though its name ends in .gz. "
                        f"Rename it to {self.path.stem}."
                    )
                yield gzip.GzipFile(fileobj=raw, mode="rb") if packed else raw  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self} is damaged or cut off: its gzip data end too early ({error}). Fetch it "
                f"again; gzip -t {self.path} checks it."
            ) from error
        except OSError as error:
            raise DataError(f"Cannot read {self}: {error.strerror or error}.") from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the lines as text, each with its number from 1.

        Raises:
            DataError: As `opened`; or the file is no UTF-8 text, or a line has no end.
        """
        with self.opened() as file:
            head = file.read(_HEAD)
            self._check(head)
            file.seek(0)
            # Old Macs and some spreadsheets end lines in CR alone: all of the file would be one.
            newline = None if b"\r" in head and b"\n" not in head else "\n"
            # A byte that is no UTF-8 is let through, for `_check_line` to name its line.
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=newline)
            try:
                for number in itertools.count(1):
                    line = text.readline(LONGEST_LINE + 1)
                    if not line:
                        return
                    self._check_line(number, line)
                    yield number, line
            finally:
                text.detach()  # or its end would close the file, which may be read again

    def _check_line(self, number: int, line: str) -> None:
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{self}, line {number}, is longer than {LONGEST_LINE >> 20} MiB, which is "
                "too long for a text of a sample. Write one row on each line."
            )
        if line.isascii():
            return
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) & 0xFF
            raise DataError(
                f"{self}, line {number}, is not UTF-8 text (byte 0x{byte:02x}). "
                f"Convert it first, for example: {self._conversion('latin1')}"
            ) from error

    def _check(self, head: bytes) -> None:
        """Refuse what the first bytes show to be no UTF-8 text."""
        for mark, encoding in _WIDE.items():
            if head.startswith(mark):
                raise DataError(
                    f"{self} is {encoding.upper()} text. Convert it: {self._conversion(encoding)}"
                )
        for mark, kind in _KINDS.items():
            if head.startswith(mark):
                raise DataError(f"{self} is {kind.format(path=self.path)}.")
        if b"\0" in head:
            raise DataError(
                f"{self} is a binary file: byte {head.index(0)} is zero. Give texts as .jsonl, "
                ".csv, .parquet or .txt."
            )

    def _conversion(self, encoding: str) -> str:
        return f"iconv -f {encoding} -t utf-8 {self.path} > utf8{self.suffix or '.txt'}"

    def _raw(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open the bytes as they are; a pipe is kept in a temporary file, to be read again."""
        if not self._stdin and self.path.is_file():
            return self.path.open("rb")
        if self._kept is None:
            self._kept = tempfile.SpooledTemporaryFile(max_size=LONGEST_LINE)  # noqa: SIM115
            weakref.finalize(self, self._kept.close)
            given = sys.stdin.buffer if self._stdin else self.path.open("rb")
            shutil.copyfileobj(given, self._kept)
        self._kept.seek(0)
        return contextlib.nullcontext(self._kept)

    def read(self, limit: int) -> str:
        """Return the whole text.

        Raises:
            DataError: As `lines`; or there are more than `limit` characters.
        """
        text = io.StringIO()
        for _, line in self.lines():
            text.write(line)
            if text.tell() > limit:
                raise DataError(
                    f"{self} is one document of more than {limit >> 20} MiB, which would have to "
                    "be in memory at once. Save it as JSON Lines, one object a line: "
                    f"jq -c '.[]' {self.path} > rows.jsonl"
                )
        return text.getvalue()
