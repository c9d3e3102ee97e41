"""Images that come with the package; LICENSE.txt beside them says whose they are.

Decided here: which images are shipped, and how each task's example is degraded from them. User
interfaces import this package; it imports nothing else of napari-dip.
"""

from __future__ import annotations

from pathlib import Path

#: Two exposures of the same mitochondria, uint8 (2, 320, 320): [0] is a noisy single shot,
#: [1] a long exposure to compare with.
MITOCHONDRIA = Path(__file__).with_name("mitochondria.tif")
#: Mitochondria and nucleus of one cell, uint16 (C, Y, X) = (2, 192, 192), hardly noisy.
TWO_CHANNELS = Path(__file__).with_name("two_channels.tif")
#: Nuclei that wander, uint16 (T, Y, X) = (8, 130, 130), hardly noisy.
NUCLEI_MOVIE = Path(__file__).with_name("nuclei_movie.tif")
#: Cell walls of an embryo, uint8 (Z, Y, X) = (16, 112, 109), hardly noisy.
EMBRYO_STACK = Path(__file__).with_name("embryo_stack.tif")
