"""Loading by name: which device, which weights, whose code."""

from __future__ import annotations

import pytest
import torch

from plop_lora.scoring.loading import device_named


def test_a_build_for_cuda_without_its_driver_runs_on_the_cpu(monkeypatch) -> None:
    """PyPI's torch for Linux names cuda on a machine without a GPU, and `plop demo` died there."""

    def built_for(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for)
    monkeypatch.setattr(torch.accelerator, "is_available", torch.cuda.is_available)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert device_named("auto") == torch.device("cpu")


def test_auto_takes_an_accelerator_that_is_there(monkeypatch) -> None:
    """The other way round: a machine with an accelerator must not fall back to its CPU."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert device_named("auto") == torch.device("cuda")
