"""A run as a flow of Metaflow, by `python examples/engines/metaflow_run.py run`.

A step that is resumed calls the same command again, which repeats nothing that is done. The exit
codes of `plop run` become artifacts: 0 confirmed, 3 gate failed, 4 undecided, 5 beaten.
"""

import subprocess

from metaflow import FlowSpec, Parameter, step


class Plop(FlowSpec):
    """Data to decision, and what it said."""

    recipe = Parameter("recipe", default="recipe.yaml")
    folder = Parameter("folder", default="plop-run")

    @step
    def start(self) -> None:
        """Run the pipeline."""
        words = ["plop", "run", self.recipe, "--folder", self.folder]
        self.code = subprocess.run(words, check=False).returncode
        if self.code not in (0, 3, 4, 5):
            raise RuntimeError(f"plop run ended with {self.code}")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Say how it ended."""
        print({0: "confirmed", 3: "gate failed", 4: "undecided", 5: "beaten"}[self.code])


if __name__ == "__main__":
    Plop()
