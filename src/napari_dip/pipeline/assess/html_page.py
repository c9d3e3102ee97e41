"""Write HTML pages of one style, without scripts and external resources."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from napari_dip.errors.templates import make_lines_printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A table of class "numbers" is aligned to the right; any other has a narrow first column of names.
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
p { margin: 0 0 .6rem; }
figure { margin: 1.6rem 0; overflow-x: auto; }
img { background: #fff; display: block; max-width: 100%; }
figcaption { margin-top: .5rem; }
pre { font-size: .85em; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid #8886; padding: .6rem .8rem; text-align: left; vertical-align: top; }
td:first-child { overflow-wrap: anywhere; width: 22%; }
.numbers { font-variant-numeric: tabular-nums; width: auto; }
.numbers th, .numbers td { padding: .2rem .7rem .2rem 0; text-align: right; }
.numbers th:first-child, .numbers td:first-child { text-align: left; width: auto; }
.numbers th { vertical-align: bottom; }
"""


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def make_element(tag: str, *children: str, **attributes: str) -> Html:
    """Return an HTML element. Text is escaped, in children and in attributes.

    Parameters
    ----------
    tag : str
    *children : str
        Text, or `Html`.
    **attributes : str
        A name may end in "_", as in `class_`.
    """
    names = "".join(
        f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    content = (child if isinstance(child, Html) else html.escape(child) for child in children)
    return Html(f"<{tag}{names}>{''.join(content)}</{tag}>")


def make_elements(tag: str, texts: Iterable[str]) -> Html:
    """Return one element for each text, one a line."""
    return Html("\n".join(make_element(tag, text) for text in texts))


def make_image(png: bytes, alt_text: str = "") -> Html:
    """Return an image with the PNG data in it, and an alternative text."""
    coded = base64.b64encode(png).decode("ascii")
    return Html(f'<img alt="{html.escape(alt_text)}" src="data:image/png;base64,{coded}">')


def make_table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Html:
    """Return a table; `kind` "numbers" aligns all columns but the first to the right."""
    lines = [make_element("tr", make_elements("td", row)) for row in rows]
    head = make_element("tr", make_elements("th", heads))
    return make_element("table", head, Html("\n".join(lines)), class_=kind)


def render_page(title: str, *blocks: Html) -> str:
    """Return a complete page with a title, which is also its heading.

    Characters that reverse the direction of writing are replaced.
    """
    body = Html("\n".join([make_element("h1", title), *blocks]))
    head = f"""<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{make_element("title", title)}
<style>{_STYLE}</style>"""
    page = f'<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    return make_lines_printable(f"<!DOCTYPE html>\n{page}")
