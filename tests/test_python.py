"""The library as it is used from Python: signatures, files for records, tables, notebooks."""

from __future__ import annotations

import inspect
import json
import logging
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build

import plop_lora as plop
from plop_lora.errors import RecordError, UsageError
from plop_lora.exports import TARGETS
from plop_lora.exports.dryrun import adapters_of
from plop_lora.quiet import NOISY, quiet_imports
from plop_lora.reports.heatmap import SHADE, STRONGEST, shade


@pytest.fixture(scope="module")
def files(scores, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    scores.save(folder / "scores.json")
    plop.place(scores, rank=2).save(folder / "placement.json")
    return folder


# --------------------------------------------------------------------------- signatures


STEPS = ("score", "place", "compare", "export", "verify", "tune", "apply")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_shows_its_signature(name: str) -> None:
    """`help(plop.verify)` showed the contents of a package, and an editor `(*args, **kwargs)`."""
    step = getattr(plop, name)
    names = list(inspect.signature(step).parameters)
    assert names[0] in ("model", "scores", "first", "source")
    assert f"{name}({names[0]}" in pydoc.plain(pydoc.render_doc(step))


@pytest.mark.parametrize("step", ["verify", "tune"])
def test_the_keys_of_a_recipe_are_keywords(scores, files: Path, step: str) -> None:
    """A recipe file is for what is kept; a first try is one line."""
    run = getattr(plop, step)
    with pytest.raises(UsageError, match="In the settings, train is needed, but is not there"):
        run(scores, task="sft")
    with pytest.raises(UsageError, match=r"sedes: there is no such key. Did you mean 'seeds'"):
        run(scores, task="sft", train="a", eval="b", sedes=3)
    with pytest.raises(plop.PlopError, match=r"No data at absent.jsonl"):
        run(scores, task="sft", train="absent.jsonl", eval="b.jsonl")
    with pytest.raises(UsageError, match=r"A recipe is needed here, not .* class list"):
        run(scores, ["task"])


def test_keywords_take_the_place_of_a_recipes_values(tmp_path: Path) -> None:
    from plop_lora.recipe import VerifyRecipe

    path = tmp_path / "recipe.yaml"
    path.write_text("task: sft\ntrain: a\neval: b\nseeds: 5\ntraining:\n  epochs: 2\n")
    for given in (str(path), path, VerifyRecipe.read(path)):
        recipe = VerifyRecipe.of(given, {"seeds": 2, "training": {"batch_size": 4}})
        assert recipe.seeds == 2
        assert (recipe.training.epochs, recipe.training.batch_size) == (2, 4)
    assert VerifyRecipe.of(recipe, {}) is recipe


def test_the_options_of_place_are_keywords_or_a_record(scores) -> None:
    """A typo in a keyword is told with the nearest key; adapters need no record of their own."""
    from plop_lora.recipe import PlacementSettings
    from plop_lora.records import AdapterSettings

    options = PlacementSettings(top=2, rank=4, layers="0-1", rslora=True)
    placement = plop.place(scores, options)
    assert placement == plop.place(scores, top=2, rank=4, layers=range(2), rslora=True)
    made = AdapterSettings(rslora=True)
    assert placement == plop.place(scores, top=2, rank=4, layers={0, 1}, settings=made)
    assert len(plop.place(scores, options, top=3).choices) == 3
    with pytest.raises(UsageError, match=r"In the settings, tpo: .* Did you mean 'top'"):
        plop.place(scores, tpo=3)


# --------------------------------------------------------------------------- files for records


def test_a_file_stands_for_its_record(scores, files: Path) -> None:
    path = files / "scores.json"
    assert plop.place(str(path)) == plop.place(scores)
    assert plop.place(path) == plop.place(scores)
    assert plop.compare(path, scores).kendall_tau == 1.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, UsageError, "not an object of the class NoneType. Make one with: plop score"),
        ({"kind": "scores"}, UsageError, "not an object of the class dict"),
        ("absent.json", RecordError, "No such file: absent.json"),
    ],
)
def test_what_is_no_scores_is_told(given, error, message: str) -> None:
    """`place("scores.json")` ended in an AttributeError of str."""
    with pytest.raises(error, match=re.escape(message)):
        plop.place(given)


def test_a_record_of_another_kind_is_named(scores) -> None:
    with pytest.raises(UsageError, match="not a 'placement' record"):
        plop.place(plop.place(scores))


# --------------------------------------------------------------------------- PEFT and trainers


def test_apply_adapts_exactly_the_placement(scores, files: Path) -> None:
    """The model that comes back has every adapter, and nothing else trains."""
    model = build("llama")
    adapted = plop.apply(model, files / "placement.json")
    placement = plop.Placement.load(files / "placement.json")
    assert type(adapted).__name__ == "PeftModelForCausalLM"
    found = adapters_of(adapted.base_model.model)
    assert found == {site.name: (2, placement.scaling) for site in placement.sites}
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == placement.trainable_parameters
    assert adapted.peft_config["default"].base_model_name_or_path == placement.model.name


def test_apply_refuses_before_the_model_is_changed(scores) -> None:
    model = build("gpt2")
    with pytest.raises(plop.PlopError, match=r"PEFT rejects|would not do what"):
        plop.apply(model, plop.place(scores, rank=2))
    assert not any("lora" in name for name, _ in model.named_modules())
    with pytest.raises(UsageError, match=r"Write plop.apply\(model, placement\)"):
        plop.apply(plop.place(scores), plop.place(scores))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_trl_takes_the_configuration(scores, tmp_path: Path) -> None:
    """`SFTTrainer(..., peft_config=placement.to_peft())` adapts the modules of the placement."""
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from conftest import WordTokenizer

    placement = plop.place(scores, rank=2)
    rows = [{"input_ids": [3, 4, 5, 6], "labels": [3, 4, 5, 6]}] * 4
    trainer = trl.SFTTrainer(
        model=build("llama"),
        args=trl.SFTConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=_fast_tokenizer(WordTokenizer().vocabulary),
        peft_config=placement.to_peft(),
    )  # fmt: skip
    found = adapters_of(trainer.model.base_model.model)
    assert found == {site.name: (2, placement.scaling) for site in placement.sites}


def _fast_tokenizer(size: int):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{n}": n for n in range(size)} | {"<eos>": size}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


def test_export_writes_the_target_that_is_named(scores, tmp_path: Path, monkeypatch) -> None:
    """`placement.export("axolotl")` wrote PEFT's file into a folder of that name."""
    monkeypatch.chdir(tmp_path)
    placement = plop.place(scores, rank=2)
    assert placement.export("axolotl").name == TARGETS["axolotl"].file_name
    assert placement.export("trainer", "axolotl").name == TARGETS["axolotl"].file_name
    assert placement.export("adapter").name == "adapter_config.json"
    assert placement.export("axolotl", "peft").name == "adapter_config.json"
    with pytest.raises(UsageError, match="Did you mean 'axolotl'"):
        placement.export("x", to="axolotls")


def test_export_is_a_function_of_a_record_or_its_file(
    scores, files: Path, tmp_path: Path, monkeypatch
) -> None:
    """`plop export` had no counterpart in Python that took a file and told what was lost."""
    monkeypatch.chdir(tmp_path)
    placement = plop.place(scores, rank=2)
    done = plop.export(placement, "out", to="axolotl")
    assert done.path == Path("out") / TARGETS["axolotl"].file_name
    assert (done.checked, done.losses) == (True, ())
    assert done.path.read_text() == done.text
    assert plop.export(files / "placement.json", "axolotl").text == done.text
    unwritten = plop.export(str(files / "placement.json"), None, dry_run=False)
    assert not unwritten.path.exists()
    assert json.loads(unwritten.text)["r"] == 2
    with pytest.raises(UsageError, match="needed here, not a 'scores' record"):
        plop.export(scores, "out")
    with pytest.raises(UsageError, match="no export of a placement to 'vllm'"):
        plop.export(placement, "out", to="vllm")
    with pytest.raises(UsageError, match="exports a file of plop place"):
        plop.export(files, "out")


# --------------------------------------------------------------------------- looking at records


def test_a_type_is_looked_up_by_name(scores) -> None:
    assert scores["q_proj"].nfn == next(row.nfn for row in scores.types if row.type == "q_proj")
    assert [row.type for row in scores] == scores.type_names()
    assert "q_proj" in scores
    assert "p_proj" not in scores
    with pytest.raises(KeyError, match="Did you mean 'q_proj'"):
        scores["q_pro"]
    with pytest.raises(UsageError, match="These scores have"):
        scores["nothing"]


def test_records_become_data_frames(scores) -> None:
    types, sites = scores.to_pandas(), scores.to_pandas("sites")
    assert list(types["type"]) == scores.type_names()
    assert list(sites["nfn"]) == [site.nfn for site in scores.sites]
    placement = plop.place(scores)
    assert list(placement.to_pandas()["type"]) == [choice.type for choice in placement.choices]
    assert len(placement.to_pandas("sites")) == len(placement.sites)
    assert len(plop.compare(scores, scores).to_pandas()) == len(scores.types)
    with pytest.raises(UsageError, match="Allowed: types, sites"):
        scores.to_pandas("layers")


def test_a_bare_name_at_a_prompt_is_one_line(scores) -> None:
    """A record of a large model filled the screen, and a debugger's list of variables."""
    assert repr(scores).startswith("<Scores: ")
    assert scores.type_names()[0] in repr(scores)
    assert "tokens" not in repr(scores.measurements)
    assert len(repr(scores.measurements)) < 50
    assert "vocab_size" not in repr(scores.model)


def test_a_notebook_shows_layers_by_type(scores) -> None:
    """The map has every layer and type, with the number that the record has."""
    page = scores._repr_html_()
    for site in scores.sites:
        assert f"{site.type}, layer {site.layer}: NFN {site.nfn:.4f}" in page
    assert "<details" not in plop.place(scores)._repr_html_()


@pytest.mark.parametrize(
    ("page", "ink"), [((255, 255, 255), (0, 0, 0)), ((17, 17, 17), (224, 224, 224))],
    ids=["light", "dark"],
)  # fmt: skip
def test_the_map_is_readable_on_any_page(page, ink) -> None:
    """The strongest cell leaves text the contrast of WCAG AA, on a light and on a dark page."""
    mixed = tuple(
        STRONGEST * colour + (1 - STRONGEST) * under
        for colour, under in zip(SHADE, page, strict=True)
    )
    bright, dim = sorted((_luminance(mixed), _luminance(ink)), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5


def test_a_few_high_scores_leave_the_others_their_colours(scores) -> None:
    """By distance, one outlier of the first layer made all other cells look alike."""
    rising = [0.6, 0.9, 1.2, 1.6, 30.0]
    shades = [shade(value, rising) for value in rising]
    assert shades == [STRONGEST, 0.45, 0.3, 0.15, 0.0]


def _luminance(colour) -> float:
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# --------------------------------------------------------------------------- noise


@pytest.mark.slow
def test_imports_keep_the_terminal_clean() -> None:
    """Every user was greeted with warnings about libraries of GPUs that are not there."""
    code = "import plop_lora as plop; plop.score; plop.place; plop.apply; plop.verify; plop.tune"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_users_own_level_comes_back() -> None:
    logger = logging.getLogger(NOISY[0])
    before = logger.level
    try:
        for level in (logging.DEBUG, logging.CRITICAL):
            logger.setLevel(level)
            with quiet_imports():
                assert logger.level >= logging.ERROR
            assert logger.level == level
    finally:
        logger.setLevel(before)


def test_json_of_a_record_is_not_changed_by_its_short_form(scores, files: Path) -> None:
    document = json.loads((files / "scores.json").read_text())
    assert len(document["measurements"]["sequence_ids"]) == scores.sequences
    assert document["model"]["config"]
