"""The scripts for a GPU machine, as far as a CPU shows: what they carry, refuse, and leave behind.

What they measure there stands in `scripts/gpu/results`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "gpu"
NAMES = ("results", "parcels", "receive", "run_study")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path[:] = before
        for name in {*NAMES, "pairs", "docstrings"} - known:
            sys.modules.pop(name, None)


def wheel(folder: Path, name: str, version: str = "1.0", *needs: str) -> Path:
    """Write a wheel that pip installs, of one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {need}" for need in needs]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "ANSWER = 42\n")
        archive.writestr(f"{information}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return path


# --------------------------------------------------------------------------- parcels


def test_every_wheel_has_a_version(scripts) -> None:
    """A package without a pin would be whatever the index has that day."""
    parcels = scripts["parcels"]
    pinned = parcels.pinned([*parcels.WHEELS, *parcels.LATE_WHEELS])
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in pinned)
    with pytest.raises(SystemExit, match="no version of nonsense"):
        parcels.pinned(["nonsense"])


def test_a_requirement_that_nothing_meets_is_named(scripts, tmp_path: Path) -> None:
    """It would show on the other machine, where nothing can be fetched any more."""
    wheels = [
        wheel(tmp_path, "one", "1.0", "two>=2", "torch", "torch<2; extra == 'old'"),
        wheel(tmp_path, "two", "1.5", "three", "backports; python_version < '3.12'"),
        wheel(tmp_path, "four", "1.0", "torch>=99"),
    ]
    found = list(scripts["parcels"].unmet(wheels))
    assert len(found) == 3
    assert found[0].endswith("needs two>=2, and two is 1.5")
    assert found[1].endswith("needs three, which is neither carried nor there")
    assert "needs torch>=99, and torch is" in found[2]


def test_files_go_where_there_is_room(scripts, tmp_path: Path) -> None:
    """A parcel over its limit does not travel; a file that fits in none is refused by name."""
    parcels = scripts["parcels"]
    items = []
    for number, size in enumerate((60, 50, 30, 40, 10)):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * size)
        items.append(parcels.Item(path, f"study/{number}"))
    made = [[int(item.place[-1]) for item in parcel] for parcel in parcels.grouped(items, 100)]
    assert made == [[0, 2, 4], [1, 3]]
    with pytest.raises(SystemExit, match="Split it into smaller parts"):
        parcels.grouped(items, 55)


def test_a_parcel_leaves_room_for_the_tree(scripts) -> None:
    parcels = scripts["parcels"]
    assert 25 * parcels.MIB < parcels.default_limit() <= parcels.LARGEST


@pytest.fixture
def carried(scripts, tmp_path: Path) -> Namespace:
    """Two parcels: a wheel, a file of the study and half of a network; the other half."""
    parcels, source = scripts["parcels"], tmp_path / "source"
    source.mkdir()
    contents = {"study/pair/pair.json": "{}", "networks/net.00": "one", "networks/net.01": "two"}
    items = [parcels.Item(wheel(source, "carried"), "wheels/carried-1.0-py3-none-any.whl")]
    for place, text in contents.items():
        path = source / place.replace("/", "-")
        path.write_text(text)
        items.append(parcels.Item(path, place))
    networks = {"net": ["net.00", "net.01"]}
    parcels.written([items[:3], items[3:]], tmp_path / "parcels", networks)
    return Namespace(
        parcels=tmp_path / "parcels", work=tmp_path / "work", models=tmp_path / "models",
        study=tmp_path / "study",
    )  # fmt: skip


@pytest.fixture
def models_script(scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for what joins a network: it notes what it is asked."""
    script = tmp_path / "models.py"
    script.write_text(
        "import pathlib, sys\n"
        "name, _, source, _, output = sys.argv[1:]\n"
        "parts = sorted(pathlib.Path(source).iterdir())\n"
        "(pathlib.Path(output) / name).write_text(''.join(p.read_text() for p in parts))\n"
    )
    monkeypatch.setattr(scripts["receive"], "MODELS_SCRIPT", script)
    monkeypatch.setenv("PYTHONPATH", "")
    return script


@pytest.mark.slow
def test_what_arrives_is_unpacked_once(scripts, carried, models_script, capfd) -> None:
    receive = scripts["receive"]
    assert receive.unpack(carried)
    assert (carried.study / "pair" / "pair.json").read_text() == "{}"
    assert (carried.work / "site" / "carried.py").exists()
    assert (carried.models / "net").read_text() == "onetwo"
    assert "1 wheels are in" in capfd.readouterr().out
    assert receive.unpack(carried)
    assert capfd.readouterr().out == ""


def test_sums_are_those_of_sha256sum(carried) -> None:
    for parcel in sorted(carried.parcels.iterdir()):
        done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=parcel, check=True)
        assert done.returncode == 0
        assert json.loads((parcel / "plan.json").read_text())["networks"]["net"]


def test_another_wheel_is_not_installed(scripts, carried, models_script, capfd) -> None:
    path = next(carried.parcels.glob("*/wheels/*.whl"))
    wheel(path.parent, "carried", "1.0", "more")
    assert not scripts["receive"].unpack(carried)
    said = capfd.readouterr().out
    assert "has another SHA-256" in said
    assert "Carry the parcel 01 again" in said
    assert not (carried.work / "site").exists()
    assert (carried.models / "net").exists()


@pytest.mark.slow
def test_a_network_waits_for_its_last_part(scripts, carried, models_script, capfd) -> None:
    """Parcels come one by one: what is not complete is left out and told, then made."""
    away = carried.parcels.parent / "02"
    (carried.parcels / "02").rename(away)
    assert scripts["receive"].unpack(carried)
    said = capfd.readouterr().out
    assert "The network net is left out: net.01 has not arrived" in said
    assert not (carried.models / "net").exists()
    away.rename(carried.parcels / "02")
    assert scripts["receive"].unpack(carried)
    assert (carried.models / "net").read_text() == "onetwo"


@pytest.mark.slow
def test_a_missing_file_is_named(scripts, carried, models_script, capfd) -> None:
    (carried.parcels / "02" / "networks" / "net.01").unlink()
    assert not scripts["receive"].unpack(carried)
    assert "net.01 is missing" in capfd.readouterr().out


def test_no_room(scripts, carried, models_script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills while pip works leaves half of a library, which fails later and oddly."""
    receive = scripts["receive"]
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda path: Namespace(free=2**20))
    with pytest.raises(SystemExit, match="No room for the wheels"):
        receive.unpack(carried)
    assert not (carried.work / "site").exists()


# --------------------------------------------------------------------------- records


def test_records_are_packed_and_come_back(scripts, tmp_path: Path) -> None:
    """A record that is just being written is left for later, and none is made twice."""
    study, folder = scripts["run_study"], tmp_path / "study"
    for place in ("a/trials/1.json", "a/trials/2.json", "b/3.json"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(json.dumps({"name": place, "value": 0.1}))
    (folder / "b" / "4.json").write_text('{"name": ')
    assert study.pack(folder, tmp_path) == 3
    back = tmp_path / "back"
    assert study.unpack(tmp_path / "study.jsonl", back) == 3
    assert study.unpack(tmp_path / "study.jsonl", back) == 0
    assert json.loads((back / "a/trials/2.json").read_text())["name"] == "a/trials/2.json"
    (tmp_path / "study.jsonl").write_text('{"pair": "..", "path": "../x.json", "record": {}}\n')
    with pytest.raises(SystemExit, match="outside"):
        study.unpack(tmp_path / "study.jsonl", back)


@pytest.mark.slow
def test_a_study_that_does_not_end_is_ended(scripts, tmp_path: Path, monkeypatch) -> None:
    """Its records are kept, and none of its processes lives on with the GPU's memory."""
    study = scripts["run_study"]
    script = tmp_path / "study.py"
    script.write_text(
        "import pathlib, subprocess, sys, time\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--results') + 1]) / sys.argv[2]\n"
        "folder.mkdir()\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(folder / 'one.json').write_text('{}')\n"
        "(folder / 'worker.txt').write_text(str(worker.pid))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(study, "STUDY", script)
    monkeypatch.setattr(study, "ENDING", 1)
    options = Namespace(
        work=tmp_path, results=tmp_path, workers=1, device="cpu", models=tmp_path / "models"
    )
    assert study.run("pair", options, 10.0) != 0
    assert json.loads((tmp_path / "study.jsonl").read_text())["path"] == "one.json"
    worker = int((tmp_path / "study" / "pair" / "worker.txt").read_text())
    until(lambda: not _runs(worker))


def _runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_outcomes_are_kept_as_they_come(tmp_path: Path) -> None:
    """A run of tests that is killed has told what passed until then."""
    (tmp_path / "test_some.py").write_text(
        "import os\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_killed(): os._exit(9)\n"
    )
    environment = os.environ | {
        "PLOP_OUTCOMES": str(tmp_path / "tests.json"),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(ROOT / "src")]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "outcomes", "-p", "no:cacheprovider"]
    options = ["-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path / "test_some.py")]
    done = subprocess.run(
        [*command, *options], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 9
    found = json.loads((tmp_path / "tests.json").read_text())
    outcomes = {name.rpartition("::")[2]: one["outcome"] for name, one in found.items()}
    assert outcomes == {"test_good": "passed", "test_bad": "failed"}
    assert "assert 1 == 2" in next(one["reason"] for one in found.values() if one["reason"])


# --------------------------------------------------------------------------- the whole run


def _command(tmp_path: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a dry run in an environment of its own."""
    kept = ("PATH", "LANG", "OMP_NUM_THREADS", "TMPDIR", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PYTHON": sys.executable, "HOME": str(tmp_path)}
    for name in ("WORK", "PARCELS", "MODELS", "STUDY"):
        environment[f"PLOP_GPU_{name}"] = str(tmp_path / name.lower())
    command = [str(SCRIPTS / "run.sh"), "--dry", "--results", str(tmp_path / "results")]
    return [*command, *options], environment


def _read(folder: Path) -> dict[str, object]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*/*.json")}


@pytest.mark.parametrize("options", [["--only", "nonsense"], ["--seconds", "soon"], ["--what"]])
def test_wrong_usage(options: list[str], tmp_path: Path) -> None:
    command, environment = _command(tmp_path, *options)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_dry_run_leaves_a_record_of_every_part(tmp_path: Path) -> None:
    """The order, the paths and the options, before there is a GPU that costs money."""
    command, environment = _command(tmp_path, "--seconds", "900")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    found = _read(tmp_path / "results")
    assert found.keys() == {"env", "tests", "score", "four-bit", "stream"}
    assert found["env"]["product_rate"] > 0
    assert found["env"]["versions"]["torch"]
    assert {one["outcome"] for one in found["tests"].values()} == {"skipped"}
    assert found["score"]["tiny"]["ratios"]["score / plain forward"]["median"] > 0
    assert len(found["score"]["tiny"]["ratios"]) == 5
    assert found["stream"]["scores"]["equal_to_the_last_bit"]
    assert found["four-bit"]["hqq"]["choices"]["model"]["choice"]
    assert found["four-bit"]["hqq"]["times"]["hqq"]["seconds"]["score"]
    (folder,) = (tmp_path / "results").iterdir()
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{name}.json" for name in found} | {"run.log"}
    assert "failed or stopped: none" in (folder / "run.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [("env", signal.SIGKILL), ("score", signal.SIGTERM), ("stream", signal.SIGKILL)],
)
def test_a_run_that_is_stopped_leaves_valid_records(
    moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Stopped as soon as a record is there, which is while it is measured and written again."""
    command, environment = _command(tmp_path, "--only", f"env,{moment}")
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    until(lambda: process.poll() is not None or list(tmp_path.glob(f"results/*/{moment}.json")))
    assert process.poll() is None, "it ended by itself"
    if number == signal.SIGTERM:
        process.terminate()
        assert process.wait(timeout=PATIENCE) == 143
    else:
        for member in _session(process.pid):
            os.kill(member, signal.SIGKILL)
        process.wait(timeout=PATIENCE)
    until(lambda: not _session(process.pid))
    found = _read(tmp_path / "results")
    assert moment in found
    assert found["env"]["versions"]


def _session(number: int) -> list[int]:
    """Return the processes of a session that run."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == number and state != "Z":
            members.append(int(path.parent.name))
    return members
