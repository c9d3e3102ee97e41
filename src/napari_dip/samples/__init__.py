"""Pictures that come with the package; LICENSE.txt beside them says whose they are."""

from __future__ import annotations

from pathlib import Path

#: Two exposures of the same mitochondria, uint8 (2, 320, 320): [0] is a noisy single shot,
#: [1] a long exposure to compare with.
MITOCHONDRIA = Path(__file__).with_name("mitochondria.tif")
