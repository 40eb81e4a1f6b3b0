"""The one exception that the command line shows as a sentence instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used. The message says what was given, what is allowed and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not in a registry: lists the known names and offers the nearest.

    >>> print(unknown_name("objective", "pear_tokn", ["nll", "pear_token"]))
    Unknown objective 'pear_tokn'. Did you mean 'pear_token'? Known: nll, pear_token.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(known)}.")


def missing_extra(package: str, extra: str) -> UserError:
    """An error for an optional library that is not installed, with the command that adds it."""
    return UserError(f"This needs {package}, which is not installed. Add it with: pip install 'pear-sft[{extra}]'")
