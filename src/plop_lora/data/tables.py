"""Rows of Parquet files and of folders of `datasets.save_to_disk`, a few at a time.

A Parquet file of 500 bytes can hold gigabytes: equal values are stored once. So the sizes that a
file declares are checked first, which pyarrow leaves to its caller, and a small batch of rows is
unpacked at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError
from plop_lora.models.folders import is_lfs_pointer

SAVED = ("dataset_info.json", "state.json")
SAVED_SPLITS = "dataset_dict.json"
_BATCH_ROWS = 128
"""Rows that are unpacked at a time."""
_BATCH_BYTES = 1 << 28
"""Most bytes that one batch of rows may take in memory."""
_RATIO = 1000
"""How many times its size a file may unpack to, and how many rows it may have for each byte."""
_UNPACKED = 1 << 26
"""Bytes that a file may unpack to whatever its own size."""
_MANY_ROWS = 10_000_000
"""Rows that a file may have whatever its own size."""


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk`."""
    return (folder / SAVED_SPLITS).is_file() or all((folder / file).is_file() for file in SAVED)


def read_saved(folder: Path) -> Iterable[Mapping[str, object]]:
    """Return the rows of a folder of `datasets.save_to_disk`, mapped from disk.

    Of several splits it is `train`, as for a data set of the hub.

    Raises:
        DataError: The folder is damaged, or which split is meant cannot be told.
    """
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of pyarrow, of json, of the file system
        raise DataError(
            f"{folder} is a saved data set, but it cannot be read ({first_line(error)}). "
            "Save it again with save_to_disk."
        ) from error
    if not isinstance(found, dict):
        rows: Iterable[Mapping[str, Any]] = found
        return rows
    split = "train" if "train" in found else next(iter(found), None)
    if split is None or ("train" not in found and len(found) > 1):
        raise DataError(
            f"{folder} holds the splits {', '.join(found) or 'none at all'}. Give one of them: "
            f"{folder / (split or 'train')}."
        )
    return found[split]  # type: ignore[no-any-return]


def read_parquet(path: Path) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: It is no Parquet file, or it unpacks to far more than it is.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_sizes(path, file.metadata)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                if batch.nbytes > _BATCH_BYTES:
                    raise _unpacks(path, f"{_BATCH_ROWS} rows of it take {batch.nbytes:,} bytes")
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        if is_lfs_pointer(path):
            raise DataError(
                f"{path} is a pointer of Git LFS and not the file itself; fetch it: git lfs pull."
            ) from error
        raise DataError(f"{path} is not a Parquet file: {first_line(error)}.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or first_line(error)}.") from error


def _check_sizes(path: Path, metadata: Any) -> None:
    size = path.stat().st_size
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    unpacked = sum(
        group.column(index).total_uncompressed_size
        for group in groups
        for index in range(group.num_columns)
    )
    if unpacked > max(_UNPACKED, _RATIO * size):
        raise _unpacks(path, f"its {size:,} bytes unpack to {unpacked:,}")
    if metadata.num_rows > max(_MANY_ROWS, _RATIO * size):
        raise _unpacks(path, f"its {size:,} bytes declare {metadata.num_rows:,} rows")


def _unpacks(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is not read, since it would fill memory: {what}. Give a sample of its rows as "
        "another file."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, for the reason in one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
