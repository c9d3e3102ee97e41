"""Everything in napari: the only folder that knows Qt, magicgui and napari."""
