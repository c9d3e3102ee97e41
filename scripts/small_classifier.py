"""Train a small convolutional classifier on images that ship with scikit-image; no download.

    python scripts/small_classifier.py small_classifier.pt2

It learns to tell from which of twelve images a crop of 64 x 64 pixels was taken. Upper halves
only: the lower ones are left for inverting its features. That takes half a minute of a processor
core; then it is saved as a program of torch.export. It expects grey images in a range of 0 to 1,
less 0.5, divided by 0.25.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

NAMES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee"),
    *("coins", "grass", "gravel", "immunohistochemistry", "moon", "page"),
)
#: Mean and standard deviation that it expects to be taken off, about those of its images.
MEAN, DEVIATION = 0.5, 0.25
SIDE, STEPS, BATCH, RATE = 64, 400, 32, 2e-3
#: How far brightness and contrast of a crop are changed at random.
CONTRAST, BRIGHTNESS = 0.3, 0.15


class Classifier(nn.Module):
    """Four convolutions, three halvings, two linear layers.

    Parameters
    ----------
    classes : int
    widths : tuple of int
        Channels of the convolutions.
    """

    def __init__(self, classes: int, widths: tuple[int, int, int, int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.features = nn.Sequential(
            *(nn.Conv2d(1, first, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(first, second, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(second, third, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * fourth, 64), nn.ReLU(inplace=True), nn.Linear(64, classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, Y, X) -> (B, classes), before the softmax."""
        answer: Tensor = self.classifier(self.pool(self.features(image)))
        return answer


def grey(name: str) -> npt.NDArray[np.float32]:
    """Give an image of scikit-image in a range of 0 to 1, its colours averaged."""
    whole = getattr(data, name)().astype(np.float32) / 255
    return whole[..., :3].mean(-1) if whole.ndim == 3 else whole


def trained(steps: int = STEPS, side: int = SIDE, seed: int = 0) -> tuple[Classifier, float]:
    """Train; the classifier, and how many of the last 30 batches' crops it told rightly.

    Parameters
    ----------
    steps : int
        Batches of 32 crops.
    side : int
        Of the crops, in pixels.
    seed : int
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Classifier(len(NAMES))
    images = [grey(name)[: len(grey(name)) // 2] for name in NAMES]
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    right = []
    for _ in range(steps):
        chosen = rng.integers(0, len(NAMES), BATCH)
        crops = np.stack([_crop(images[number], side, rng) for number in chosen])
        answer = network((torch.from_numpy(crops)[:, None] - MEAN) / DEVIATION)
        loss = F.cross_entropy(answer, torch.from_numpy(chosen))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        right.append(float((answer.argmax(1).numpy() == chosen).mean()))
    return network.eval(), float(np.mean(right[-30:]))


def save(network: nn.Module, place: str | os.PathLike[str], side: int = SIDE) -> None:
    """Save a network of grey images as a program of torch.export."""
    program = torch.export.export(network.eval(), (torch.zeros(1, 1, side, side),))
    torch.export.save(program, place)


def _crop(
    image: npt.NDArray[np.float32], side: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Cut a crop out, mirror it at random, and change its contrast and brightness."""
    row, column = (rng.integers(0, count - side + 1) for count in image.shape)
    crop = image[row : row + side, column : column + side][:, :: rng.choice([1, -1])]
    factor = rng.uniform(1 - CONTRAST, 1 + CONTRAST)
    return np.asarray(crop * factor + rng.uniform(-BRIGHTNESS, BRIGHTNESS), np.float32)


if __name__ == "__main__":
    classifier, share = trained()
    save(classifier, sys.argv[1])
    print(f"Tells {share:.0%} of the crops of its last batches rightly.")
