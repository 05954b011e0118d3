"""Equal-budget finetunes of rival placements: does the shortlist hold?

The package has the name of its step, so it is callable as the step: `plop.verify(scores, recipe)`
is `plop_lora.verify.run.verify`. Importing a submodule binds the package to that name in
`plop_lora`, whatever a lazy name there would give.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plop_lora.records import Verification


class _Step(ModuleType):
    """A package that is called as its step."""

    def __call__(self, *arguments: Any, **options: Any) -> Verification:
        """Run `plop_lora.verify.run.verify`; see there."""
        from plop_lora.verify.run import verify

        return verify(*arguments, **options)


sys.modules[__name__].__class__ = _Step
