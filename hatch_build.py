"""Ship the napari.yaml of the repository's root inside the package, in every kind of install."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManifestHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        manifest = root / "napari.yaml"
        if version != "editable":
            build_data["force_include"][str(manifest)] = "napari_dip/napari.yaml"
            return
        # napari looks beside __init__.py, which an editable install leaves in the checkout.
        inside = root / "src" / "napari_dip" / "napari.yaml"
        inside.unlink(missing_ok=True)
        try:
            inside.symlink_to(Path("..", "..", "napari.yaml"))
        except OSError:  # Windows without the right to make links
            shutil.copyfile(manifest, inside)
