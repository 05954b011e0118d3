"""Every family of the list: what is measured, that it is right, and that it can be exported."""

from __future__ import annotations

import families
import pytest
from reference import reference

import plop_lora as plop

TABLES = ("pos_key_proj", "pos_query_proj")
"""DeBERTa's, which read a table of relative positions: its rows are no tokens of a text."""


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_equals_the_definition_on_every_site(name: str) -> None:
    """A wrong input, transpose, slice, expert or bias moves some site by far more than 1e-4."""
    model = families.build(name)
    scores = plop.score(model, batches=[families.batch_of(name)], progress=False)
    expected = reference(model, families.rows_of(name))
    measured = {site.name: (site.nfn, site.tokens) for site in scores.sites}
    tables = {site for site in expected if site.endswith(TABLES)}
    assert measured.keys() == expected.keys() - tables
    for site in measured:
        value, tokens = expected[site]
        assert measured[site][1] == tokens, site
        assert measured[site][0] == pytest.approx(value, rel=1e-4), site


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_everything_is_measured_or_excluded_by_rule(name: str) -> None:
    """A matrix in a block that silently drops out is the field's commonest accident."""
    model = families.build(name)
    scores = plop.score(model, batches=[families.batch_of(name)], progress=False)
    missing = [entry for entry in scores.coverage.not_measured if not entry.by_rule]
    assert all(entry.name.endswith(TABLES) for entry in missing)
    assert missing or scores.coverage.share == 1.0
