"""The prior that learns to fill in from what is known: the picture itself, with more hidden.

At each step some of the known pixels are hidden as well, and drive the fit; a further channel says
what is seen. Once it fills those in well, it fills in what was never measured.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.holdout import spread
from napari_dip.engine.prior import Draw, Window
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Parts that the known pixels are divided into for the last look: each is foretold with that part
#: hidden, so a part must be small against what is left to see.
PARTS = 8
