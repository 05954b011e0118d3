"""The bundled pretrained model, its two tasks, and the demonstration that `plop demo` runs."""

from plop_lora.demo.tour import DATA, MODEL, TASKS, check, run

__all__ = ["DATA", "MODEL", "TASKS", "check", "run"]
