"""Drawing figures while looking whether everything in them fits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pear.report.figures.drawing import Panel, matplotlib_settings
from pear.report.figures.svg import Picture


@contextmanager
def drawing() -> Iterator[list[str]]:
    """Draws with our settings; gives the figures whose words or marks reach beyond an edge, and by how many inches."""
    outside: list[str] = []
    finish = Panel.finish

    def checked(panel: Panel, data: Any) -> Picture:
        panel.figure.draw_without_rendering()
        inches, (width, height) = panel.figure.get_tightbbox(), panel.figure.get_size_inches()
        beyond = max(-inches.x0, -inches.y0, inches.x1 - width, inches.y1 - height)
        if beyond > 0.02:
            outside.append(f"{panel.name}: {beyond:.2f}")
        return finish(panel, data)

    with pytest.MonkeyPatch.context() as patch, matplotlib_settings():
        patch.setattr(Panel, "finish", checked)
        yield outside
