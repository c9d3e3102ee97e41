"""Run the command line as `python -m napari_dip`."""

from __future__ import annotations

import sys

from napari_dip.cli import main

if __name__ == "__main__":
    sys.exit(main())
