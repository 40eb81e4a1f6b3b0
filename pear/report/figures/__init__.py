"""Pictures: each with its data, as SVG for the page and the files."""
