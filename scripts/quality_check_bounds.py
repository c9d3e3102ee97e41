"""Print what the bounds of `pipeline.assess.quality_checks` were chosen by; takes a minute.

Residuals of images whose truth is known (scikit-image's cell, camera, coins and moon, 256 x 256),
under white and under correlated noise: of the truth itself, and of Gaussian filters, which take
structure out with the noise. A bound on the excess correlation is good if the truth stays below it
and a filter that hurts is above.

    python scripts/quality_check_bounds.py
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.pipeline.assess.metrics import measure_residual
from napari_dip.pipeline.assess.quality_checks import compute_correlation_limit

SIDE = 256
LEVELS = (3.0, 10.0, 30.0)
#: Widths of the noise's own correlation, and of the filters, in pixels.
CORRELATIONS, FILTERS = (0.0, 0.7), (0.5, 0.7, 1.0, 1.5, 2.5)


def truth(name: str) -> np.ndarray:
    """Give the middle of one of scikit-image's images, in grey levels."""
    image = getattr(data, name)().astype(np.float64)
    height, width = image.shape[:2]
    row, column = (height - SIDE) // 2, (width - SIDE) // 2
    return image[row : row + SIDE, column : column + SIDE]


def known_noise(level: float, width: float) -> NoiseEstimate:
    """Say what a perfect measurement of this noise would."""
    along = tuple(
        float(np.exp(-(lag**2) / (4 * width**2))) if width else 0.0 for lag in range(1, 6)
    )
    return NoiseEstimate(
        gain=0.0, intercept=level**2, floor=0.5 * level**2, along_y=along, along_x=along
    )


def main() -> None:
    """Print one line for each image, noise and filter."""
    print(
        "picture level width | of | structure | with measured noise: excess, strength, edges |"
        "with true noise: excess, strength, edges | allowed | doubt of the noise"
    )
    for name in ("cell", "camera", "coins", "moon"):
        for level in LEVELS:
            for width in CORRELATIONS:
                noise = np.random.default_rng(0).normal(size=(SIDE, SIDE))
                noise = gaussian_filter(noise, width) if width else noise
                noise *= level / noise.std()
                clean = truth(name)
                shot = clean + noise
                measured = estimate_noise(torch.from_numpy(shot)[None], 0.0)
                for size in (0.0, *FILTERS):
                    image = gaussian_filter(shot, size) if size else clean
                    lost = clean - gaussian_filter(clean, size) if size else 0 * clean
                    residual = shot - image
                    share = lost.var() / residual.var()
                    rows = [
                        measure_residual(residual[None], image[None], None, noise)
                        for noise in (measured, known_noise(level, width))
                    ]
                    cells = " | ".join(
                        f"{row.excess:+.3f} {row.noise_ratio:.2f} {row.edge_variance_ratio:.2f}"
                        for row in rows
                    )
                    of = f"filter {size:g}" if size else "truth"
                    bound = compute_correlation_limit(rows[0])
                    doubt = measured.unreliable_reason or "none"
                    case = f"{name} {level:g} {width:g} | {of} | {share:.0%}"
                    print(f"{case} | {cells} | {bound:.2f} | {doubt}")


if __name__ == "__main__":
    main()
