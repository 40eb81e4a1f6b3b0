"""Tasks of this family, one file each."""
