"""One page for people: figures, captions whose numbers come from the run, recipe, references."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.run.page import html_page, picture_tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 66rem; padding: 0 1rem; }
figure { margin: 1.6rem 0; }
img { background: #fff; display: block; max-width: 100%; }
figcaption { margin-top: .5rem; }
pre { font-size: .85em; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .2rem .7rem .2rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { vertical-align: bottom; }
"""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A figure of the page.

    Attributes
    ----------
    picture : bytes
        A PNG file.
    title, caption : str
        Plain text.
    """

    picture: bytes
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of equal length below their heads, and what they say; plain text."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def page_text(
    title: str,
    summary: Sequence[str],
    figures: Sequence[Shown],
    recipe: Mapping[str, object],
    references: Sequence[str],
    table: Table | None = None,
) -> str:
    """Write the page as HTML: nothing is loaded from elsewhere, and no program is in it.

    Parameters
    ----------
    title : str
    summary : sequence of str
        Paragraphs.
    figures : sequence of Shown
    recipe : mapping
        In plain JSON types.
    references : sequence of str
    table : Table or None
        Stands between summary and figures.
    """
    paragraphs = "\n".join(f"<p>{html.escape(words)}</p>" for words in summary)
    drawn = "\n".join(map(_figure, figures))
    cited = "\n".join(f"<li>{html.escape(words)}</li>" for words in references)
    told = html.escape(json.dumps(recipe, indent=2, ensure_ascii=False))
    body = f"""{paragraphs}
{_lines(table) if table else ""}
{drawn}
<h2>Recipe</h2>
<pre>{told}</pre>
<h2>References</h2>
<ol>
{cited}
</ol>"""
    return html_page(title, _STYLE, body)


def _lines(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(one)}</th>" for one in table.heads)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide"><table>\n<tr>{heads}</tr>\n{rows}\n</table></div>\n'
        f"<p>{html.escape(table.caption)}</p>"
    )


def _figure(shown: Shown) -> str:
    title, caption = html.escape(shown.title), html.escape(shown.caption)
    return (
        f"<figure>\n<h2>{title}</h2>\n{picture_tag(shown.picture, shown.title)}\n"
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
