"""How the analyses write their tables, and keep the rows that they have on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.analysis.request import Request
from pear.runs import Files, read_json, replacing

if TYPE_CHECKING:
    import pyarrow

_PARTS = "parts"


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """Writes a table as Parquet under a temporary name and renames it: one that exists is whole."""
    import pyarrow.parquet

    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def kept_rows(request: Request, count: int, unit: str, make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows 0, 1, ..., each a file under `request.scratch`; those that are there and whole are not made again.

    Args:
        request: its `progress` is called after every row.
        count: how many rows, and `unit`, what they are rows of.
        make: a row from its place, of what JSON can hold.
    """
    parts = request.scratch / _PARTS
    parts.mkdir(parents=True, exist_ok=True)
    files = Files(parts, request.scratch / f"{_PARTS}.json")
    names = [f"{place:05d}.json" for place in range(count)]
    for place, name in enumerate(names):
        if not files.has(name):
            with files.writing(name) as temporary:
                temporary.write_text(json.dumps(make(place)), encoding="utf-8")
        request.progress(place + 1, count, unit)
    return [read_json(parts / name) for name in names]
