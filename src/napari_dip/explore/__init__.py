"""Show why an untrained network restores an image, with experiments on the user's own image.

    from napari_dip import explore

    explore.impedance("cells.tif").save("impedance")
    explore.spectrum("cells.tif", truth="clean.tif").save("spectrum")
    explore.architectures("cells.tif").save("architectures")
    explore.features("cells.tif", "network.pt2").save("features")

Importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_dip.explore.architecture_comparison import ArchitectureComparison
    from napari_dip.explore.experiments import architectures, features, impedance, spectrum
    from napari_dip.explore.feature_layers import FeatureInversionResult
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.spectra import SpectrumResult

__all__ = [
    "ArchitectureComparison",
    "FeatureInversionResult",
    "ImpedanceResult",
    "SpectrumResult",
    "architectures",
    "features",
    "impedance",
    "spectrum",
]

#: Modules of the public names that are not those of `experiments`.
_EXPLORE_MODULES = {
    "ArchitectureComparison": "architecture_comparison",
    "FeatureInversionResult": "feature_layers",
    "ImpedanceResult": "noise_impedance",
    "SpectrumResult": "spectra",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPLORE_MODULES.get(name, 'experiments')}"), name)
