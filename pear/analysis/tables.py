"""How the analyses write their tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from pear.runs import replacing

if TYPE_CHECKING:
    import pyarrow


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """Writes a table as Parquet under a temporary name and renames it: one that exists is whole."""
    import pyarrow.parquet

    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
