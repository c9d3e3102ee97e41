"""`napari-dip doctor`: print what was found on this computer."""

from __future__ import annotations

import json
from math import floor
from typing import TYPE_CHECKING

from napari_dip.cli.words import say, tell
from napari_dip.run.doctor import examine
from napari_dip.run.plan import size

if TYPE_CHECKING:
    from napari_dip.run.doctor import Examination


def doctor(*, as_json: bool = False) -> int:
    """Look at this computer and print it; 1 if nothing could be restored here, else 0."""
    if not as_json:
        say("Trying PyTorch; this takes some seconds.")
    found = examine()
    if as_json:
        tell(json.dumps(found.to_dict(), indent=2))
    else:
        for line in _lines(found):
            tell(line)
    return 0 if found.works else 1


def _lines(found: Examination) -> list[str]:
    torch = f"{found.torch} ({found.build})" if found.torch else "not working"
    cards = f" ({', '.join(found.cards)})" if found.cards else ""
    lines = [
        f"napari-dip   {found.version}",
        f"Python       {found.python}",
        f"System       {found.system}",
        f"PyTorch      {torch}",
        f"Devices      {', '.join(found.devices) or 'none'}{cards}",
    ]
    if found.bridge:
        lines.append(found.bridge)
    if found.no_card:
        lines.append(f"No graphics card: {found.no_card}.")
    lines += [
        f"Cores        {found.cores}",
        f"Free memory  {size(found.memory_bytes, floor)}",
        f"napari       {found.napari or 'not installed'}",
        f"Qt           {found.qt or 'not installed'}",
    ]
    if not found.mends:
        return [*lines, "All that is needed is there."]
    for mend in found.mends:
        lines += ["", f"{mend.trouble}. To mend it:", f"    {mend.command}"]
    return lines
