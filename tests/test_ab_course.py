"""What earlier looks at an experiment would have shown. Needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from experiments import drawn, experiment

from plop_lora.ab import analyze
from plop_lora.ab.course import course_of
from plop_lora.errors import DataError
from plop_lora.records import Analysis
from plop_lora.records.analysis import Role
from plop_lora.reports.page import html_page, markdown_page, results_of

SEEN = drawn({"now": 600, "next": 600}, {"now": 0.4, "next": 0.6})


def test_the_last_look_is_the_analysis() -> None:
    """A figure that ends elsewhere than the table beside it would be believed by nobody."""
    found = analyze(experiment(), SEEN)
    course = course_of(experiment(), SEEN)
    row = next(row for row in found.comparisons if row.role is Role.PRIMARY)
    last = course[-1]
    assert (last.arm, last.units, last.difference, last.low, last.high) == (
        row.arm, row.units, row.difference, row.low, row.high,
    )  # fmt: skip
    assert [point.units for point in course] == sorted(point.units for point in course)
    assert len(course) <= 20
    assert course == course_of(experiment(), SEEN[::-1])


def test_an_earlier_look_knows_nothing_of_later() -> None:
    """A course that looks ahead would show an effect before its units had come."""
    course = course_of(experiment(), SEEN, looks=4)
    early = sorted(SEEN, key=lambda one: one.exposed_at)[: len(SEEN) // 2]
    row = next(row for row in analyze(experiment(), early).comparisons if row.role is Role.PRIMARY)
    assert (course[1].units, course[1].low, course[1].high) == (row.units, row.low, row.high)


def test_looks_without_an_interval_are_left_out() -> None:
    few = drawn({"now": 20, "next": 20}, {"now": 0.4, "next": 0.6})
    assert course_of(experiment(), few) == ()
    with pytest.raises(DataError, match="no observations"):
        course_of(experiment(), [])


def test_the_record_and_the_report_have_it(tmp_path: Path) -> None:
    """An older record without a course keeps its digest, and a page without one has no figure."""
    plain = analyze(experiment(), SEEN)
    assert "course" not in plain.to_dict()
    whole = dataclasses.replace(plain, course=course_of(experiment(), SEEN))
    assert Analysis.load(whole.save(tmp_path / "a.json")) == whole
    words = "resolved at earlier looks, with the confidence sequence"
    assert words in html_page(results_of([whole]))
    assert words in markdown_page(results_of([whole]))
    assert words not in html_page(results_of([plain]))
