"""PEAR: SFT objectives judged by the model they give after RL."""

__version__ = "0.1.0"
