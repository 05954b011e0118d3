"""Robustness with models: each variant against the same thing done by hand, and nothing changed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import families
import peft
import pytest
import torch
from conftest import GOLDEN, TEXTS, WordTokenizer, build
from torch import nn
from transformers.pytorch_utils import Conv1D

import plop_lora as plop
from plop_lora.data.documents import Documents
from plop_lora.data.general_text import texts_of
from plop_lora.data.texts import Document
from plop_lora.errors import AdapterError, DataError, MeasurementError, RecordError, UsageError
from plop_lora.records import Robustness, Scores, Source
from plop_lora.scoring.sites.find import find_sites
from plop_lora.scoring.sites.operators import OpaqueOperator
from plop_lora.variants import each, texts, weights
from plop_lora.variants.measuring import Subject
from plop_lora.variants.unavailable import UnavailableError

FORWARDS = ("typos", "noise", "half-length", "8-bit", "4-bit", "pruned", "random-words")


def ask(model: nn.Module | str, given: object = None, **options: object) -> Robustness:
    tokenizer = options.pop("tokenizer", WordTokenizer())
    options = {"progress": False} | options
    return plop.robustness(model, tokenizer, TEXTS if given is None else given, **options)


def scored(model: nn.Module, given: list[str]) -> dict[str, float]:
    """Return the NFN of each type, as `plop score` gives it; a text may stand there twice."""
    documents = Documents("by hand", tuple(map(Document, given)), len(given), 0)
    found = plop.score(
        model, WordTokenizer(), documents, stop="fixed", reference=False, progress=False
    )
    return {row.host_type: row.nfn for row in found.types}


def digest(model: nn.Module) -> str:
    """Return a hash of all weights, buffers, names, modes and hooks of a model."""
    whole = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        whole.update(f"{name} {tensor.dtype}".encode())
        whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        whole.update(f"{name} {type(module).__name__} {module.training} {hooks}".encode())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def everything() -> Robustness:
    """All variants that the small Llama and a tokenizer of words can have."""
    return ask(build("llama"), prompt="say {text} now", against=[GOLDEN / "llama-scores.json"])


def test_every_variant_is_there_or_has_its_reason(everything: Robustness) -> None:
    from plop_lora.variants.catalogue import VARIANTS

    there = {one.variant for one in everything}
    missing = {one.variant: one.reason for one in everything.left_out}
    assert there | missing.keys() == set(VARIANTS)
    assert not there & missing.keys()
    assert missing["merged"] == "no --adapter was given"
    assert "--group" in missing["imbalance"]
    assert "no chat template" in missing["chat-template"]
    assert "tokens on average already" in missing["short"]


def test_the_base_is_what_plop_score_gives(everything: Robustness) -> None:
    assert everything.nfn == pytest.approx(scored(build("llama"), TEXTS), rel=1e-6)
    lowest = sorted(everything.nfn, key=lambda name: everything.nfn[name])[:3]
    assert list(everything.chosen) == lowest


def test_the_record_survives_the_disk(everything: Robustness, tmp_path: Path) -> None:
    loaded = Robustness.load(everything.save(tmp_path / "robustness.json"))
    assert loaded == everything
    assert loaded.digest() == everything.digest()


def test_one_forward_pass_a_variant(everything: Robustness) -> None:
    """What the scores hold is resampled, and nothing is run twice for one variant."""
    run = [one for one in everything if one.source is Source.FORWARD]
    assert everything.forwards == 1 + len(run)
    assert {one.variant for one in run} == {*FORWARDS, "prompt", "other-language"}
    seen: list[int] = []
    model = build("llama")
    model.model.register_forward_hook(
        lambda module, given, options, output: seen.append(len(output[0])), with_kwargs=True
    )
    ask(model, variants=["bootstrap"])
    before = sum(seen)
    seen.clear()
    ask(model, variants=["bootstrap", "typos"])
    # The texts once more, and one of them alone, as in every score.
    assert sum(seen) - before == len(TEXTS) + 1


@pytest.mark.parametrize("name", ["typos", "noise", "half-length"])
def test_changed_texts_are_those_of_a_score(everything: Robustness, name: str) -> None:
    change = {
        "typos": texts.with_typos, "noise": texts.with_noise, "half-length": texts.first_half
    }[name]  # fmt: skip
    changed = texts.changed([Document(text) for text in TEXTS], change, 0)
    by_hand = scored(build("llama"), [document.text for document in changed])
    assert everything[name].nfn == pytest.approx(by_hand, rel=1e-5)
    assert everything[name].paired


def test_a_prompt_is_that_of_a_score(everything: Robustness) -> None:
    by_hand = scored(build("llama"), [f"say {text} now" for text in TEXTS])
    assert everything["prompt"].nfn == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_those_of_a_score(everything: Robustness, bits: int) -> None:
    """Rounded here in another way: to the nearest entry of a table of levels."""
    model = build("llama")
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                for row in module.weight:
                    levels = torch.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
                    table = levels * (row.abs().max() / (2 ** (bits - 1) - 1))
                    row.copy_(table[(row[:, None] - table[None]).abs().argmin(dim=1)])
    assert everything[f"{bits}-bit"].nfn == pytest.approx(scored(model, TEXTS), rel=1e-4)


def test_pruned_weights_are_those_of_a_score(everything: Robustness) -> None:
    from torch.nn.utils import prune

    model = build("llama")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            prune.l1_unstructured(module, "weight", 0.5)
            prune.remove(module, "weight")
    assert everything["pruned"].nfn == pytest.approx(scored(model, TEXTS), rel=1e-5)


def test_saved_scores_of_the_same_texts_are_paired(everything: Robustness) -> None:
    one = next(one for one in everything if one.variant == "against")
    assert (one.source, one.paired) == (Source.SAVED, True)
    assert one.tau == one.tau_low == one.tau_high == 1
    assert one.unchanged == everything["bootstrap"].unchanged


# --------------------------------------------------------------------------- nothing is changed


def test_the_model_is_as_it_was() -> None:
    model = build("llama")
    model.train()
    before = digest(model)
    ask(model, variants=FORWARDS)
    assert digest(model) == before


@pytest.mark.parametrize(
    "error",
    [MeasurementError("NaN in a weight."), torch.OutOfMemoryError("out of memory"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_in_the_middle_changes_nothing_and_ends_nothing(monkeypatch, error) -> None:
    """Half of the weights are rounded when it comes; the next variant runs on."""
    model, changes = build("llama"), 0

    def failing(weight_OI: torch.Tensor) -> torch.Tensor:
        nonlocal changes
        changes += 1
        if changes > 7:
            raise error
        return torch.zeros_like(weight_OI)

    before = digest(model)
    monkeypatch.setattr(weights, "pruned", failing)
    run = dict(each._RUNS, pruned=lambda task: each._changed_weights(failing, task))
    monkeypatch.setattr(each, "_RUNS", run)
    record = ask(model, variants=["typos", "pruned", "random-words"])
    assert digest(model) == before
    assert changes == 8
    assert [one.variant for one in record] == ["typos", "random-words"]
    (left_out,) = record.left_out
    reason = "NaN in a weight" if isinstance(error, MeasurementError) else "does not fit into"
    assert reason in left_out.reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a fault of ours")])
def test_what_is_no_reason_goes_on(monkeypatch, error) -> None:
    """Ctrl-C and a bug are not recorded as a variant that cannot be had; the model is whole."""
    model = build("llama")
    before = digest(model)

    def raising(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(each, "twin_of", raising)
    with pytest.raises(type(error)):
        ask(model, variants=["4-bit"])
    assert digest(model) == before


def test_a_failed_forward_leaves_no_hook(monkeypatch) -> None:
    model, calls = build("llama"), 0
    original = Subject.measure

    def failing(self: Subject, *arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        layer = self.engine.model.model.layers[1]
        handle = layer.register_forward_pre_hook(_explode)
        with contextlib.ExitStack() as stack:
            stack.callback(handle.remove)
            return original(self, *arguments, **options)

    def _explode(*_: object) -> None:
        raise MeasurementError("exploded.")

    before = digest(model)
    monkeypatch.setattr(Subject, "measure", failing)
    record = ask(model, variants=["bootstrap", "typos", "8-bit"])
    assert [one.reason for one in record.left_out] == ["exploded", "exploded"]
    assert calls == 2
    assert digest(model) == before


# --------------------------------------------------------------------------- weights


def test_rounding_has_so_many_levels_a_row() -> None:
    torch.manual_seed(0)
    weight_OI = torch.randn(5, 400)
    weight_OI[2] = 0
    rounded_OI = weights.rounded_to(4)(weight_OI)
    for row, original in zip(rounded_OI, weight_OI, strict=True):
        step = original.abs().max() / 7
        assert len(row.unique()) <= 15
        assert (row - original).abs().max() <= step / 2 + 1e-6
    assert not rounded_OI[2].any()


def test_rows_are_outputs_also_of_a_transposed_weight() -> None:
    """GPT-2 stores its weights as [in, out]; a scale per input would be another quantisation."""
    model = build("gpt2")
    sites = find_sites(model).sites
    weights.change_weights(sites, weights.rounded_to(4))
    layers = [module for module in model.modules() if isinstance(module, Conv1D)]
    assert layers
    for module in layers:
        assert max(len(column.unique()) for column in module.weight.T) <= 15
        assert max(len(row.unique()) for row in module.weight) > 15


def test_experts_of_a_stack_are_changed_one_by_one() -> None:
    model = families.build("mixtral")
    sites = [site for site in find_sites(model).sites if site.host.is_parameter]
    before = copy.deepcopy(model)
    weights.change_weights(find_sites(model).sites, weights.pruned)
    assert sites
    named, old = dict(model.named_parameters()), dict(before.named_parameters())
    for name in {site.host.name for site in sites}:
        for expert_OI, whole_OI in zip(named[name], old[name], strict=True):
            assert (expert_OI == 0).float().mean() == pytest.approx(0.5, abs=0.01)
            kept = expert_OI != 0
            assert torch.equal(expert_OI[kept], whole_OI[kept])


def test_a_fused_weight_is_changed_once() -> None:
    """Its slices are sites of one weight; half of a half would be a quarter."""
    model = build("neox")
    weights.change_weights(find_sites(model).sites, weights.pruned)
    weight = model.gpt_neox.layers[0].attention.query_key_value.weight
    assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_quantised_weights_are_left_alone() -> None:
    model = build("llama")
    sites = find_sites(model).sites
    packed = [dataclasses.replace(sites[0], operator=OpaqueOperator(sites[0].module))]
    with pytest.raises(UnavailableError, match="is quantised already"):
        weights.check_writable_weights([*sites[1:], *packed])


def test_a_copy_that_does_not_fit(monkeypatch) -> None:
    monkeypatch.setattr(weights, "available_memory", lambda: 1000)
    record = ask(build("llama"), variants=["bootstrap", "4-bit"])
    (left_out,) = record.left_out
    assert "a copy of the weights takes" in left_out.reason


# --------------------------------------------------------------------------- adapters, checkpoints


def adapter(folder: Path, name: str = "llama", *, zero: bool = False) -> str:
    """Save a LoRA adapter with large random factors."""
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=zero)
    model = peft.get_peft_model(build(name), config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and not zero:
                parameter.mul_(3)
    model.save_pretrained(folder)
    return str(folder)


def test_a_merged_adapter_is_that_of_a_score(tmp_path: Path) -> None:
    model, folder = build("llama"), adapter(tmp_path / "adapter")
    before = digest(model)
    record = ask(model, variants=["bootstrap"], against=[folder])
    merged = peft.PeftModel.from_pretrained(build("llama"), folder).merge_and_unload()
    one = record[f"merged: {folder}"]
    assert one.nfn == pytest.approx(scored(merged, TEXTS), rel=1e-5)
    assert one.nfn["q_proj"] != pytest.approx(record.nfn["q_proj"], rel=1e-3)
    assert one.nfn["k_proj"] == pytest.approx(record.nfn["k_proj"], rel=0.3)
    assert digest(model) == before


def test_an_adapter_that_changes_nothing_is_named(tmp_path: Path) -> None:
    record = ask(
        build("llama"), variants=["bootstrap"], against=[adapter(tmp_path / "zero", zero=True)]
    )
    assert record.left_out[0].reason == "the adapter changes none of the scored weights"


def test_an_adapter_of_another_base(tmp_path: Path) -> None:
    """PEFT's error is the reason, and the other variants stay."""
    folder = adapter(tmp_path / "adapter")
    larger = families.causal("LlamaConfig", "LlamaForCausalLM", hidden_size=64)().eval()
    record = ask(larger, variants=["bootstrap"], against=[folder])
    assert [one.variant for one in record] == ["bootstrap"]
    assert "PEFT cannot load" in record.left_out[0].reason


def test_a_damaged_adapter_is_an_error_before_the_forward(tmp_path: Path, monkeypatch) -> None:
    folder = Path(adapter(tmp_path / "adapter"))
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    monkeypatch.setattr("plop_lora.variants.run.score", None)
    with pytest.raises(AdapterError):
        ask(build("llama"), against=[folder])


def test_another_checkpoint_is_scored_on_the_same_texts(decoder: str, tmp_path: Path) -> None:
    from trials import checkpoint

    other = checkpoint(tmp_path / "other", "LlamaForCausalLM", pad=False)
    with torch.no_grad():
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(other)
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight[:4] *= 20
        model.save_pretrained(other)
    given = [f"{text} again" for text in texts_of("english")[:20]]
    record = plop.robustness(
        decoder, None, given, variants=["bootstrap"], against=[other, decoder], progress=False
    )
    found = plop.score(other, None, given, stop="fixed", progress=False)
    one, same = record[f"against: {other}"], record[f"against: {decoder}"]
    assert one.nfn == pytest.approx({row.type: row.nfn for row in found.types}, rel=1e-5)
    assert (same.tau, same.tau_low) == (1, 1)
    assert record.forwards == 3


def test_checkpoints_of_other_types(encoder: str, tmp_path: Path) -> None:
    """Saved scores are compared before the first forward pass; a model once it is loaded."""
    bert = build("bert")
    foreign = plop.score(bert, WordTokenizer(), TEXTS, progress=False).save(tmp_path / "bert.json")
    with pytest.raises(UsageError, match="Give --against a checkpoint of the same architecture"):
        ask(build("llama"), against=[foreign])
    record = ask(build("llama"), variants=["bootstrap"], against=[encoder])
    assert "it has no" in record.left_out[0].reason
    assert encoder in record.left_out[0].reason


def test_scores_that_counted_otherwise_are_noted(scores: Scores, tmp_path: Path) -> None:
    made = scores.provenance
    other = dataclasses.replace(
        scores,
        provenance=dataclasses.replace(
            made, settings={**made.settings, "special_tokens": True, "max_length": 7}
        ),
    ).save(tmp_path / "other.json")
    record = ask(build("llama"), variants=["bootstrap"], against=[other])
    notes = " ".join(record.results[-1].notes)
    assert "special tokens count in one" in notes
    assert "cut to 7 tokens and not to 512" in notes


def test_a_streamed_model_keeps_its_weights(decoder: str) -> None:
    """Texts vary as in memory; weights stay on disk, and the record says so."""
    given = texts_of("english")[:16]
    names = ["bootstrap", "typos", "4-bit"]
    streamed, whole = (
        plop.robustness(decoder, None, given, variants=names, engine=engine, progress=False)
        for engine in ("stream", "memory")
    )
    assert streamed["typos"].nfn == pytest.approx(whole["typos"].nfn, rel=1e-4)
    assert "read from disk block by block" in streamed.left_out[0].reason
    assert not whole.left_out


# --------------------------------------------------------------------------- texts


def test_typos_leave_most_of_a_text() -> None:
    text = " ".join(["several words stand here"] * 10)
    changed = texts.with_typos(text, random.Random(0))
    wrong = [a for a, b in zip(text.split(), changed.split(), strict=True) if a != b]
    assert 1 <= len(wrong) <= 4
    assert texts.with_typos("12 + 7", random.Random(0)) == "12 + 7"


def test_noise_replaces_one_character_of_twenty() -> None:
    text = "x" * 200
    changed = texts.with_noise(text, random.Random(0))
    assert len(changed) == len(text)
    assert 5 <= sum(a != b for a, b in zip(text, changed, strict=True)) <= 10


def test_a_change_depends_on_the_text_alone() -> None:
    one, two = Document("some words of a text"), Document("other words of a text")
    first = texts.changed([one, two], texts.with_typos, 0)
    assert texts.changed([two, one], texts.with_typos, 0) == first[::-1]
    assert texts.changed([one], texts.with_noise, 1) != texts.changed([one], texts.with_noise, 2)


def test_special_tokens_of_a_template_stay() -> None:
    text = "<|im_start|>user\nwhat is written here<|im_end|>"
    for change in (texts.with_typos, texts.with_noise, texts.first_half):
        (changed,) = texts.changed(
            [Document(text, rendered=True)], change, 0, ["<|im_start|>", "<|im_end|>", ""]
        )
        assert changed.text != text
        assert changed.text.startswith("<|im_start|>")
        assert changed.text.endswith("<|im_end|>")
    (plain,) = texts.without_special(
        [Document(text, rendered=True)], ["<|im_start|>", "<|im_end|>"]
    )
    assert (plain.text, plain.rendered) == ("user\nwhat is written here", False)


def test_half_of_a_text() -> None:
    generator = random.Random(0)
    assert texts.first_half("one two three four", generator) == "one two"
    assert texts.first_half("a", generator) == "a"
    assert texts.first_half("日本語の文章です", generator) == "日本語の"


def test_random_words_are_of_no_text() -> None:
    given = [Document("a question of four"), Document("日本語の文章がここにある" * 4)]
    made = texts.of_random_words(given, 0)
    assert len(made[0].text.split()) == 4
    assert len(made[1].text.split()) == 6
    assert made == texts.of_random_words(given, 0)
    assert made[0] != texts.of_random_words(given, 1)[0]


def test_the_other_language_is_another_one() -> None:
    assert texts.mostly_japanese([Document(text) for text in texts_of("japanese")[:4]])
    assert not texts.mostly_japanese([Document(text) for text in texts_of("english")[:4]])
    record = ask(
        build("llama"), [" ".join(text) for text in texts_of("japanese")[:16]],
        variants=["other-language"],
    )  # fmt: skip
    assert record.results[0].setting == "English"


def test_a_prompt_and_its_answer_are_one_text() -> None:
    """A decoder reads a prompt and its completion as one text, and so does every variant."""
    items = tuple(Document(text, target=" and an answer") for text in TEXTS)
    documents = Documents("pairs", items, len(items), 0)
    record = ask(build("llama"), documents, variants=["half-length"])
    whole = [Document(text + " and an answer") for text in TEXTS]
    halves = [one.text for one in texts.changed(whole, texts.first_half, 0)]
    by_hand = scored(build("llama"), halves)
    assert record["half-length"].nfn == pytest.approx(by_hand, rel=1e-5)


def test_an_encoder_decoder_keeps_its_two_sides() -> None:
    record = ask(build("t5"), variants=["bootstrap", "typos", "8-bit"])
    assert [one.variant for one in record] == ["bootstrap", "typos", "8-bit"]


def test_groups_of_the_texts() -> None:
    items = tuple(Document(text, group="ab"[n % 2]) for n, text in enumerate(TEXTS))
    record = ask(build("llama"), Documents("d", items, 24, 0), variants=["imbalance"])
    assert [one.setting for one in record] == ["balanced", "90 % a", "90 % b"]
    alike = tuple(dataclasses.replace(item, group="a") for item in items)
    record = ask(build("llama"), Documents("d", alike, 24, 0), variants=["imbalance", "bootstrap"])
    assert record.left_out[0].reason == "all texts are of one group"


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    """A group is named by the user's data, and a record is plain text on one line."""
    items = tuple(
        Document(text, group="\x1b[2Jx\ny" if n % 2 else "b") for n, text in enumerate(TEXTS)
    )
    record = ask(
        build("llama"), Documents("d", items, 24, 0), variants=["imbalance"],
        prompt="two\nlines {text}",
    )  # fmt: skip
    assert Robustness.load(record.save(tmp_path / "r.json")) == record
    assert "\x1b" not in str(record)
    assert r"\x1b[2Jx\ny" in str(record)


# --------------------------------------------------------------------------- wrong inputs


def no_forward(*_: object, **__: object) -> Iterator[None]:
    raise AssertionError("a forward pass before the check")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"given": []}, DataError, "list is empty"),
        ({"given": ["one text"]}, DataError, "1 different text, and 16 are the least"),
        ({"given": TEXTS[:15]}, DataError, "15 different texts"),
        ({"variants": ["typoes"]}, UsageError, "Did you mean 'typos'"),
        ({"prompt": "no place"}, UsageError, "has no {text}"),
        ({"against": ["absent.json"]}, RecordError, "No such file"),
        ({"against": ["./absent"]}, ValueError, "is not there"),
        ({"max_lenght": 4}, UsageError, "Did you mean 'max_length'"),
        ({"variants": ["merged"]}, UsageError, "merged needs --adapter DIR, the folder"),
        ({"variants": ["imbalance"]}, UsageError, "names the column .* Ask for others, or leave"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_wrong_inputs(options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(build("llama"), **options)


def test_no_texts_at_all() -> None:
    with pytest.raises(UsageError, match="Give texts"):
        plop.robustness(build("llama"), WordTokenizer())


def test_an_old_record_is_refused(tmp_path: Path, scores: Scores) -> None:
    """Scores without the sums per text, as no release wrote them, cannot be resampled."""
    import json

    document = scores.to_dict()
    del document["measurements"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="damaged 'scores' record: measurements"):
        ask(build("llama"), against=[tmp_path / "old.json"])
