"""PSNR of denoised movies that were edited as movies are before they come to a denoiser.

Usage: python benchmarks/edited_movies.py [--preset instant] [--only "running mean" bleached]
Eight frames or planes (membranes: five) of 128 x 128 pixels of three movies and a stack, smoothed
as truth, with photon noise of 25 photons at white and a background of 1. The truth is edited alike.
A gain and an offset are fitted to each result. *Gaussian*: the best of four widths in the plane and
four over time, chosen by the truth.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from tifffile import imread

import napari_dip as dip
from edited_images import compute_psnr
from napari_dip.samples import NUCLEI_MOVIE
from shared_data import data_folder, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Movie = npt.NDArray[np.float64]

SIDE, FRAMES, PHOTONS = 128, 8, 25
#: Standard deviations of the Gaussian filter in the plane, and over time.
WIDTHS, DURATIONS = (0.6, 1, 1.5, 2.2), (0, 0.5, 1, 2)


def average(movie: Movie) -> Movie:
    """Return the running mean of three frames."""
    padded = np.pad(movie, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def average_recursively(movie: Movie) -> Movie:
    """Return the mean of each frame and the averaged one before, as a microscope's Kalman mode."""
    averaged = movie.copy()
    for index in range(1, len(movie)):
        averaged[index] = (averaged[index - 1] + movie[index]) / 2
    return averaged


def interpolate(movie: Movie) -> Movie:
    """Put the mean of two frames between them."""
    middle = (movie[:-1] + movie[1:]) / 2
    return np.stack([movie[:-1], middle], 1).reshape(-1, *movie.shape[1:])[: len(movie)]


def compute_relative_change(movie: Movie) -> Movie:
    """Return the change since the first two frames, relative to them: dF/F."""
    baseline = movie[:2].mean(0)
    return (movie - baseline) / (baseline + 5)


#: Edits that hold for the truth as well.
EDITS: dict[str, Callable[[Movie], Movie]] = {
    "none": lambda movie: movie,
    "running mean": average,
    "Kalman": average_recursively,
    "interpolated": interpolate,
    "doubled frames": lambda movie: np.repeat(movie, 2, 0)[: len(movie)],
    "background subtracted": lambda movie: movie - gaussian_filter(movie, (0, 8, 8)),
    "mean frame subtracted": lambda movie: movie - movie.mean(0),
    "dF/F": compute_relative_change,
}


def list_movies() -> Iterator[tuple[str, Movie]]:
    """Yield names and photons at each pixel."""
    shared = ("timelapse/cancer_cell_migration", "timelapse/membrane2d", "stacks3d/pollen")
    paths = [NUCLEI_MOVIE, *(data_folder() / f"{name}.tif" for name in shared)]
    for path in paths:
        movie = imread(path).astype(float)
        movie = movie[(0,) * (movie.ndim - 3)]
        first = max(0, len(movie) // 2 - FRAMES // 2)
        light = gaussian_filter(movie[first : first + FRAMES, :SIDE, :SIDE], (0, 1, 1))
        light -= np.percentile(light, 1)
        yield path.stem, PHOTONS * light.clip(0) / np.percentile(light, 99.8) + 1


def list_edits(light: Movie) -> Iterator[tuple[str, Movie, Movie]]:
    """Yield the name of each edit, the noisy movie, and its truth."""
    noisy = np.random.default_rng(0).poisson(light).astype(float)
    for name, edit in EDITS.items():
        yield name, edit(noisy), edit(light)
    remaining = np.exp(-np.arange(len(light)) / 4)[:, None, None]
    bleached = np.random.default_rng(1).poisson(light * remaining).astype(float)
    yield "bleached", bleached, light * remaining
    yield "bleaching corrected", bleached / remaining, light


def main() -> None:
    """Restore all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--only", nargs="+", help="names of edits")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, light in list_movies():
        for edit, noisy, truth in list_edits(light):
            if options.only and edit not in options.only:
                continue
            result = dip.denoise(noisy.astype(np.float32), preset=options.preset, axes="TYX")
            filtered = (gaussian_filter(noisy, (d, w, w)) for d in DURATIONS for w in WIDTHS)
            rows.append(
                {
                    "edit": edit,
                    "movie": name,
                    "input": compute_psnr(noisy, truth, is_fitted=True),
                    "output": compute_psnr(np.asarray(result.image), truth, is_fitted=True),
                    "Gaussian": max(compute_psnr(i, truth, is_fitted=True) for i in filtered),
                    "verdict": str(result.report["verdict"]["kind"]),
                }
            )
    gains = [row["output"] - row["input"] for row in rows]
    write(f"edited_movies_{options.preset}", rows, {"mean gain": float(np.mean(gains))})


if __name__ == "__main__":
    main()
