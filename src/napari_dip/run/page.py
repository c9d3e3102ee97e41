"""The frame of a page in HTML: nothing is loaded from elsewhere, and no program is in it."""

from __future__ import annotations

import base64
import html

from napari_dip.errors.printable import printable_lines


def html_page(title: str, style: str, body: str) -> str:
    """Write a whole page.

    Parameters
    ----------
    title : str
        Plain text, in the head and above the rest.
    style : str
        CSS, as it is.
    body : str
        HTML, as it is.
    """
    told = html.escape(title)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{told}</title>
<style>{style}</style>
</head>
<body>
<h1>{told}</h1>
{body}
</body>
</html>
"""
    return printable_lines(page)  # a browser obeys marks that turn the direction of writing


def picture_tag(png: bytes, words: str = "") -> str:
    """Put a picture into the page itself; `words`, plain text, are for those who cannot see it."""
    coded = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{coded}">'
