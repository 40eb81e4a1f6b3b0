"""How the analyses write their tables."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """Writes a table as Parquet under a temporary name and renames it: one that exists is whole."""
    import pyarrow.parquet

    temporary = path.with_name(path.name + ".tmp")
    pyarrow.parquet.write_table(table, temporary, compression="zstd")
    temporary.rename(path)
