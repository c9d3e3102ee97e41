"""Ship manifest and docs pages inside the package, and a README that can be read alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class ManifestHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        manifest = root / "napari.yaml"
        if version != "editable":
            build_data["force_include"][str(manifest)] = "napari_dip/napari.yaml"
            for page in (*root.glob("docs/*.md"), *root.glob("docs/tasks/*.md")):
                place = page.relative_to(root).as_posix()
                build_data["force_include"][str(page)] = f"napari_dip/{place}"
            return
        # napari looks beside __init__.py, which an editable install leaves in the checkout.
        inside = root / "src" / "napari_dip" / "napari.yaml"
        inside.unlink(missing_ok=True)
        try:
            inside.symlink_to(Path("..", "..", "napari.yaml"))
        except OSError:  # Windows without the right to make links
            shutil.copyfile(manifest, inside)


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        # Package indexes show this page without the files that it points to.
        text = re.sub(r"!\[[^]]*\]\((?!https:)[^)]*\)\n*", "", text)
        text = re.sub(r"\[([^]]*)\]\((?!https:)[^)]*\)", r"\1", text)
        text += "\nGuides and figures are in the folder `docs` of the source archive.\n"
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
