"""Analyses of what training did to a model: one file each, and its line here.

A module has `VERSION` (raised whenever its numbers change), `Settings` (a `StrictModel`), `REQUIRES` (what it needs
beside `before`, of "after", "buffer" and "gradients"), `check(request)`, which raises `UserError` for what the user got
wrong and writes nothing, and `analyze(request)`, which writes its tables under `request.work` and returns what goes
into `metrics.json`. The modules import neither torch nor transformers before one of these two is called.
"""

import importlib
from types import ModuleType

from pear.errors import unknown_name

ANALYSES: dict[str, str] = {
    "weight_drift": "pear.analysis.weight_drift",
    "divergence": "pear.analysis.divergence",
    "token_weights": "pear.analysis.token_weights",
    "gradient_rotation": "pear.analysis.gradient_rotation",
}


def load_analysis(name: str) -> ModuleType:
    """An analysis' module. Raises `UserError` for an unknown name."""
    if name not in ANALYSES:
        raise unknown_name("analysis", name, ANALYSES)
    return importlib.import_module(ANALYSES[name])
