"""Data sets of the hub, which is not asked here: a stand-in answers, or a local cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plop_lora.acquisition import acquire
from plop_lora.data import revisions
from plop_lora.errors import DataError
from plop_lora.records import Acquisition

FIRST, SECOND = "a1" * 20, "b2" * 20
ROWS = [{"text": f"a row about subject {number} of its own"} for number in range(20)]


class Hub:
    """Stands in for the hub: it knows one data set with a branch, and notes what is loaded."""

    licence: Any = "mit"

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str | None, str, str | None]] = []
        self.found = FIRST
        self.online = True

    def dataset_info(self, name: str, revision: str | None, token: str | None) -> Any:
        known = {None: FIRST, "main": FIRST, "v2": SECOND, FIRST: FIRST, SECOND: SECOND}
        if revision not in known:
            raise ValueError(f"404 no revision {revision}")
        return SimpleNamespace(sha=known[revision], card_data={"license": self.licence})

    def load(self, name: str, config: str | None, split: str, token: Any, revision: Any) -> Any:
        self.loaded.append((name, config, split, revision))
        self.found = revision if self.online else self.found
        return _Loaded(self.found)


class _Loaded(list[Any]):
    def __init__(self, commit: str) -> None:
        super().__init__(ROWS)
        self.cache_files = [{"filename": f"/cache/o___d/default/0.0.0/{commit}/d-train.arrow"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    made = Hub()
    monkeypatch.setattr(datasets, "load_dataset", made.load)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr("plop_lora.data.reading.out_of_reach", lambda name, kind: "")
    monkeypatch.setattr(revisions, "is_offline", lambda: not made.online)
    monkeypatch.setattr(revisions, "reachable", lambda: made.online)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return made


def made(tmp_path: Path, revision: str | None = None, **settings: Any) -> Acquisition:
    keys = {"revision": revision, **settings}
    return acquire(train="o/d:main:train", folder=tmp_path / "out", acquire=keys)


def test_a_branch_is_resolved_before_it_is_read(hub: Hub, tmp_path: Path) -> None:
    """A branch moves, so that the record named one version and the rows were of another."""
    record = made(tmp_path, "v2")
    assert hub.loaded == [("o/d", "main", "train", SECOND)]
    (source,) = record.sources
    assert (source.revision, source.sha256) == (SECOND, None)
    assert (source.licence, source.licence_from) == ("mit", "the card of o/d")
    assert made(tmp_path).sources[0].revision == FIRST
    assert made(tmp_path, licence="CC0").sources[0].licence_from == "the recipe"
    hub.licence = ["mit", "apache-2.0"]
    assert made(tmp_path).sources[0].licence == "mit, apache-2.0"
    with pytest.raises(DataError, match="does not tell the commit of o/d at v3"):
        made(tmp_path, "v3")


def test_without_a_network_the_commit_is_that_of_the_cache(hub: Hub, tmp_path: Path) -> None:
    """The library reads the newest version in its cache, whatever revision it is asked for."""
    hub.online, hub.found = False, SECOND
    assert made(tmp_path).sources[0].revision == SECOND
    assert made(tmp_path, SECOND).sources[0].revision == SECOND
    with pytest.raises(DataError, match=f"wanted at commit {FIRST}, but the cache holds"):
        made(tmp_path, FIRST)
    with pytest.raises(DataError, match="The commit of o/d at v2 is unknown"):
        made(tmp_path, "v2")
    hub.found = "default-5f2a"
    with pytest.raises(DataError, match="The commit of o/d is unknown"):
        made(tmp_path)
    refs = tmp_path / "hub" / "datasets--o--d" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(FIRST)
    record = made(tmp_path)
    assert record.sources[0].revision == FIRST
    assert record.sources[0].licence is None


PREPARE = """
import json, shutil, sys
from pathlib import Path
import datasets
home, rows, commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
datasets.load_dataset("json", data_files=rows, cache_dir=str(home / "made"))
(arrow,) = (home / "made").rglob("*-train.arrow")
folder = home / "datasets" / "o___d" / "default" / "0.0.0" / commit
folder.mkdir(parents=True)
shutil.copy(arrow, folder / "d-train.arrow")
info = json.loads((arrow.parent / "dataset_info.json").read_text())
info |= {"builder_name": "d", "dataset_name": "d", "config_name": "default"}
info["splits"]["train"]["dataset_name"] = "d"
(folder / "dataset_info.json").write_text(json.dumps(info))
"""


@pytest.mark.slow
def test_the_real_cache_is_read_without_a_network(tmp_path: Path) -> None:
    """The stand-in above agrees with `datasets` on where a commit stands in the cache."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    home = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | home
    prepare = (sys.executable, "-c", PREPARE, str(tmp_path), str(rows), SECOND)
    subprocess.run(prepare, check=True, env=environment, capture_output=True)
    command = (sys.executable, "-m", "plop_lora", "acquire", "--train", "o/d:default:train")
    for revision, code in ((None, 0), (SECOND, 0), (FIRST, 1)):
        given = () if revision is None else ("--set", f"acquire.revision={revision}")
        done = subprocess.run(
            (*command, *given), env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
    assert "the cache holds commit" in done.stderr
    record = Acquisition.load(tmp_path / "acquired" / "acquisition.json")
    assert record.sources[0].revision == SECOND
    assert record.train_rows + record.eval_rows == 20
