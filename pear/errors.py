"""The one exception that the command line shows as a sentence instead of a traceback."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_OF_RUST = re.compile(r"\(os error (\d+)\)")
# torch.save says no more than that.
_OF_TORCH = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs|iostream error")


class UserError(Exception):
    """Something the user gave cannot be used. The message says what was given, what is allowed and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not in a registry: lists the known names and offers the nearest.

    >>> print(unknown_name("objective", "pear_tokn", ["nll", "pear_token"]))
    Unknown objective 'pear_tokn'. Did you mean 'pear_token'? Known: nll, pear_token.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(known)}.")


def missing_extra(package: str, extra: str) -> UserError:
    """An error for an optional library that is not installed, with the command that adds it."""
    return UserError(f"This needs {package}, which is not installed. Add it with: pip install 'pear-sft[{extra}]'")


@contextmanager
def writing_to(place: str | Path) -> Iterator[None]:
    """Turns what libraries raise on a full disk or in a read-only directory into one sentence, a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number not in _NO_ROOM | _NO_ACCESS:
            raise
        where = getattr(error, "filename", None) or place
        advice = "Make room" if number in _NO_ROOM else "Make it accessible"
        raise UserError(
            f"{where}: {os.strerror(number)}. {advice} and run the same command again: it goes on where it was."
        ) from error


def _error_number(error: Exception) -> int:
    """The system's error number behind an exception; 0 where none is known."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := _OF_RUST.search(str(error)):
        return int(found[1])
    return errno.ENOSPC if _OF_TORCH.search(str(error)) else 0
