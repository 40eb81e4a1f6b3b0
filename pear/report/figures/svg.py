"""From a matplotlib figure to SVG and PDF: files that stand alone, and an element for the page that follows its theme.

Colors are drawn in the light theme's values; on the page each becomes a CSS variable. A legend's artists carry a gid
that starts with `legend`; the page has its own legend, so there they are cut off with the strip they stand in.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pear.report.export import ExportTable

# CSS variable, light value, dark value. The six hues are Okabe and Ito's, without the yellow that vanishes on white.
THEME = (
    ("ink", "#1c2126", "#e6e9ec"),
    ("muted", "#5a636d", "#9aa4ae"),
    ("grid", "#e2e5e9", "#30363d"),
    ("paper", "#ffffff", "#15181c"),
    ("blue", "#0072b2", "#3f9bd8"),
    ("vermillion", "#d55e00", "#e8742a"),
    ("green", "#009e73", "#22b58c"),
    ("purple", "#cc79a7", "#d68fb6"),
    ("orange", "#e69f00", "#e9ab26"),
    ("sky", "#56b4e9", "#8accf3"),
)
LIGHT = {name: value for name, value, _ in THEME}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "pear",
    "svg.fonttype": "none",
    # TrueType fonts (42) are cut down glyph by glyph in Python, which takes over a second a figure.
    "pdf.fonttype": 3,
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "savefig.transparent": True,
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
# A hundredth of a point cannot be seen, and every digit more would make the page a third larger.
_DIGITS = re.compile(r"(\.\d\d)\d+")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_NO_PDF_METADATA = {"CreationDate": None, "Creator": None, "Producer": None}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure.

    `file` is a whole SVG document, `pdf` a whole PDF, `inline` an SVG element for the page, and `data` what was drawn.
    """

    name: str
    title: str
    file: str
    pdf: bytes
    inline: str
    data: "ExportTable"


def picture(figure: "Figure", *, name: str, title: str, legend_inches: float, data: "ExportTable") -> Picture:
    """Writes a figure as PDF and, twice, as SVG; `legend_inches` of its lower end are not for the page."""
    buffer, pages = io.StringIO(), io.BytesIO()
    with warnings.catch_warnings():
        # Text stays text, so a letter that the measuring font lacks is only measured wrongly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
        figure.savefig(pages, format="pdf", metadata=_NO_PDF_METADATA, transparent=False)
    text = buffer.getvalue().replace("font-family: 'DejaVu Sans'", f"font-family: {FONTS}")
    height = figure.get_figheight()
    inline = _inline(text, prefix=name, title=title, keep=(height - legend_inches) / height)
    return Picture(name=name, title=title, file=text, pdf=pages.getvalue(), inline=inline, data=data)


def _inline(text: str, *, prefix: str, title: str, keep: float) -> str:
    root = ElementTree.fromstring(text)
    _strip(root, prefix)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    root.attrib.clear()
    shown = round(height * keep, 2)
    look = {"viewBox": f"0 0 {width:g} {shown:g}", "preserveAspectRatio": "xMinYMin"}
    root.attrib.update({**look, "role": "img", "aria-label": title})
    return ElementTree.tostring(root, encoding="unicode")


def _strip(element: ElementTree.Element, prefix: str) -> None:
    """Plain HTML names, ids that are unique on the page, theme colors, no style sheet and no legend."""
    element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        name = "href" if key == f"{{{_XLINK}}}href" else key
        if name == "id":
            value = f"{prefix}-{value}"
        elif name == "href":
            value = f"#{prefix}-{value.removeprefix('#')}"
        elif name == "clip-path":
            value = value.replace("url(#", f"url(#{prefix}-")
        elif name == "style":
            value = _themed(value)
        elif name in ("d", "x", "y"):
            value = _DIGITS.sub(r"\1", value)
        element.attrib[name] = value
    for child in list(element):
        legend = child.attrib.get("id", "").startswith("legend")
        style = child.tag == f"{{{_SVG}}}defs" and any(inner.tag == f"{{{_SVG}}}style" for inner in child)
        if legend or style or child.tag == f"{{{_SVG}}}metadata":
            element.remove(child)
        else:
            _strip(child, prefix)


def _themed(style: str) -> str:
    style = re.sub(r"\s*font-family: [^;]*;?", "", style)
    for name, light, _ in THEME:
        style = style.replace(light, f"var(--{name})")
    return style


def theme_css(dark: bool) -> str:
    """The variables of one theme as CSS declarations."""
    return " ".join(f"--{name}: {black if dark else light};" for name, light, black in THEME)
