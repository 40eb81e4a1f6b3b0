"""Engines: what samples completions and scores them. Import an engine from its own module."""

from pear.engines.protocol import Completion, Engine, Sampling, derive_seed

__all__ = ["Completion", "Engine", "Sampling", "derive_seed"]
