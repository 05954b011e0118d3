"""What is shown of trials under way, without a terminal and on a made-up one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from builders import trial_cost, trial_result, trial_spec
from rich.console import Console

from plop_lora.recipe import Price
from plop_lora.records import TrainingSettings
from plop_lora.records.trial import FINAL, LADDER
from plop_lora.reports.live import LiveBoard, State, Trial, drawn, live, read_curve, rows
from plop_lora.training.runners.events import FINISHED, RUNNING, WAITING, Event

SPECS = [trial_spec(arm, seed=seed) for arm in ("plop", "all-linear") for seed in (0, 1)]
STATE = State(
    trials=(
        Trial(SPECS[0], FINISHED, (3.0, 2.0, 1.0), trial_result(SPECS[0], 0.6124)),
        Trial(SPECS[1], RUNNING, (3.0, 2.5)),
        Trial(SPECS[2], FINISHED, (), trial_result(SPECS[2], None)),
        Trial(SPECS[3]),
    ),
    elapsed=34.0,
    left=600.0,
    device_seconds=7200.0,
    accelerator=True,
    hourly=2.5,
)


LEGEND = (
    "· waiting, ▸ running, ✓ done, ✗ failed. Bars: train loss from the start; at the end loss on "
    "the evaluation rows."
)


def test_arms_by_seeds() -> None:
    table = rows(STATE)
    assert [column.name for column in table.columns] == ["arm", "seed 0", "seed 1"]
    assert table.rows == (
        ("plop", "✓ █▅▁ loss 0.612", "▸ █▁ train loss 2.500"),
        ("all-linear", "✗ failed", "·"),
    )
    assert table.title == "Trials, confirmation: 2 of 4 finished"
    assert table.lines == (
        LEGEND,
        "✗ all-linear, seed 0: the loss is NaN",
        "34 s so far, about 10 min to go.",
        "GPU time so far: 2.0 h, 5.00 USD at 2.50 a device-hour.",
    )


def test_the_ladder_shows_rates_and_the_next_phase_replaces_it() -> None:
    """Two seeds of one arm would share a cell, were rates and seeds mixed in one table."""
    ladder = [trial_spec("plop", phase=LADDER, learning_rate=rate) for rate in (6e-4, 6e-5)]
    table = rows(State((*(Trial(s) for s in ladder), Trial(SPECS[0]))))
    assert [column.name for column in table.columns] == ["arm", "6e-05", "0.0006"]
    done = tuple(Trial(s, FINISHED, (), trial_result(s)) for s in ladder)
    assert rows(State((*done, Trial(SPECS[0])))).title.startswith("Trials, confirmation: 0 of 1")
    assert rows(State(done)).title.startswith("Trials, learning-rate ladder: 2 of 2")
    assert rows(State(())).rows == ()


def test_a_search_has_a_row_a_trial() -> None:
    """A search tries each rate once: as columns they would be a diagonal, wider than any screen."""
    search = [trial_spec(f"r{n}", phase=LADDER, learning_rate=n * 1e-4) for n in (1, 2, 3)]
    assert rows(State(tuple(Trial(s) for s in search))).rows == (
        ("r1", "0.0001", "·"), ("r2", "0.0002", "·"), ("r3", "0.0003", "·"),
    )  # fmt: skip
    alike = [trial_spec(learning_rate=rate) for rate in (1e-4, 2e-4)]
    assert len(rows(State(tuple(Trial(s) for s in alike))).rows) == 2


def test_the_table_as_drawn() -> None:
    console = Console(record=True, width=60, file=io.StringIO(), color_system=None)
    console.print(drawn(rows(STATE)))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == [
        "Trials, confirmation: 2 of 4 finished",
        "",
        "arm         seed 0            seed 1",
        "───────────────────────────────────────────────────",
        "plop        ✓ █▅▁ loss 0.612  ▸ █▁ train loss 2.500",
        "all-linear  ✗ failed          ·",
        "",
        "· waiting, ▸ running, ✓ done, ✗ failed. Bars: train loss",
        "from the start; at the end loss on the evaluation rows.",
        "✗ all-linear, seed 0: the loss is NaN",
        "34 s so far, about 10 min to go.",
        "GPU time so far: 2.0 h, 5.00 USD at 2.50 a device-hour.",
    ]


def test_a_growing_curve_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    """The trial writes while the table reads: half a line, or a NaN, must not end the display."""
    assert read_curve(tmp_path, "sft") == ()
    (tmp_path / "curve.jsonl").write_text(
        '{"loss": 3.0, "reward": 0.1}\n{"eval_loss": 9}\n{"loss": NaN}\n[1]\n{"loss": 2}\n{"lo'
    )
    assert read_curve(tmp_path, "sft") == (3.0, 2.0)
    assert read_curve(tmp_path, "grpo") == (0.1,)


def test_time_to_go_is_shared_among_those_that_run_at_once(tmp_path: Path) -> None:
    now = [100.0]
    board = LiveBoard(SPECS, price=Price(hourly=1.0), device_seconds=5.0, clock=lambda: now[0])
    assert board.state().left is None
    for one in SPECS[:2]:
        board(Event(one, tmp_path, RUNNING))
    now[0] = 110.0
    first = trial_result(SPECS[0], cost=trial_cost(10.0, devices=3))
    board(Event(SPECS[0], tmp_path, FINISHED, first))
    board(Event(SPECS[2], tmp_path, RUNNING))
    now[0] = 114.0
    state = board.state()
    assert state.left == pytest.approx((0.0 + 6.0 + 10.0) / 2)
    assert (state.elapsed, state.device_seconds, state.accelerator) == (14.0, 35.0, False)


def test_a_trial_that_was_found_costs_nothing_now(tmp_path: Path) -> None:
    """Going on with a run would otherwise count the hours of the run before as its own."""
    board = LiveBoard(SPECS)
    board(Event(SPECS[0], tmp_path, WAITING))
    board(Event(SPECS[0], tmp_path, FINISHED, trial_result(SPECS[0])))
    assert board.state().device_seconds == 0.0
    assert board.state().left == pytest.approx(30.0)


def _events(watch, folder: Path) -> None:
    for one in SPECS:
        watch(Event(one, folder, WAITING))
    watch(Event(SPECS[0], folder, RUNNING))
    watch(Event(SPECS[0], folder, FINISHED, trial_result(SPECS[0], 0.5)))
    watch(Event(SPECS[1], folder, FINISHED, trial_result(SPECS[1], None)))


def test_without_a_terminal_each_finished_trial_is_one_line(tmp_path: Path, capsys) -> None:
    """A log file gets no control characters and no table that is drawn again and again."""
    with live(SPECS) as watch:
        _events(watch, tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "[1/4] plop, confirmation, seed 0, rate 0.0003: loss 0.500, 10 s; about 30 s to go",
        "[2/4] plop, confirmation, seed 1, rate 0.0003: failed: the loss is NaN, 10 s; "
        "about 20 s to go",
    ]


def test_a_trial_that_the_next_phase_asks_for_again_is_told_once(tmp_path: Path, capsys) -> None:
    """Every look of a verification asks for the trials of the looks before."""
    with live(SPECS) as watch:
        _events(watch, tmp_path)
        before = capsys.readouterr().err
        _events(watch, tmp_path)
        watch(Event(SPECS[2], tmp_path, FINISHED, trial_result(SPECS[2], 0.4)))
    assert len(before.splitlines()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[3/4] all-linear")


def test_a_terminal_gets_the_table(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with live(SPECS, console=console) as watch:
        _events(watch, tmp_path)
    assert "Trials, confirmation: 2 of 4 finished" in screen.getvalue()
    assert "✓ loss 0.500" in screen.getvalue()


def test_a_trial_that_takes_longer_is_not_over(tmp_path: Path) -> None:
    """The words "about 0.0 s to go" stood there for minutes while the slowest trial ran."""
    now = [0.0]
    board = LiveBoard(SPECS[:2], clock=lambda: now[0])
    for one in SPECS[:2]:
        board(Event(one, tmp_path, RUNNING))
    board(Event(SPECS[0], tmp_path, FINISHED, trial_result(SPECS[0], cost=trial_cost(10.0))))
    now[0] = 99.0
    assert rows(board.state()).lines[-2] == "99 s so far, the last trials take longer."
    board(Event(SPECS[1], tmp_path, FINISHED, trial_result(SPECS[1], cost=trial_cost(99.0))))
    assert rows(board.state()).lines[-2] == "99 s so far."
    assert "to go" not in board.line(Event(SPECS[1], tmp_path, FINISHED, trial_result(SPECS[1])))


def test_phases_have_the_names_of_the_plan() -> None:
    """A search called its second stage by the name of its first."""
    for phase, name in (("ladder", "learning-rate ladder"), ("search", "search"),
                        ("confirm", "confirmation"), ("untrained", "untrained model")):  # fmt: skip
        table = rows(State((Trial(trial_spec(phase=phase)),)))
        assert table.title == f"Trials, {name}: 0 of 1 finished"


def test_a_final_finetune_says_what_is_left_from_its_steps(tmp_path: Path) -> None:
    """By what judging the base took, a day of training would seem to be over in seconds."""
    spec = trial_spec("plop", phase=FINAL, training=TrainingSettings(epochs=2.0, device="cpu"))
    now = [100.0]
    board = LiveBoard([spec], clock=lambda: now[0])
    (tmp_path / "curve.jsonl").write_text('{"step": 5, "loss": 1.0, "epoch": 0.5}\n')
    board(Event(spec, tmp_path, RUNNING))
    assert board.state().left is None
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"step": 10, "loss": 0.9, "epoch": 1.0}\n')
    now[0] += 60
    assert board.state().left == pytest.approx(120)
