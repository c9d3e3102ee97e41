"""What can be wrong with pictures: known from the header, or from the pixels."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

PIXELS = {
    # --- pixels, known from the header
    "image-none": Fault("No image is chosen.", "Open an image and choose it as the input."),
    "image-not-array": Fault(
        "'{name}' is no array of numbers: {why}.",
        "Give a NumPy array, a dask array, lists of equal length or the path of an image file.",
    ),
    "image-masked": Fault(
        "{count} of the {total} pixels of '{name}' are masked out.",
        "Fill them in first, with image.filled(...), or crop to the part without them.",
    ),
    "input-missing": Fault(
        "No {label} is chosen, and to {task} one is needed.",
        "Choose a layer or a file for it.",
    ),
    "layer-type": Fault(
        "'{name}' is a {kind} layer, not an image.", "Choose an Image layer as the input."
    ),
    "image-scalar": Fault(
        "'{name}' is a single number, not an image.", "Choose an image with two axes."
    ),
    "image-line": Fault(
        "'{name}' has one axis of {count} values, so it is a line and not an image.",
        "Choose an image with two axes.",
    ),
    "image-empty": Fault(
        "'{name}' holds no pixels (its shape is {shape}).", "Choose another image."
    ),
    "image-small": Fault(
        "'{name}' is {height} × {width} pixels, but at least {least} × {least} are needed.",
        "Choose a larger image or a larger crop.",
    ),
    "image-stack": Fault(
        "'{name}' is a stack (axes {axes}, sizes {shape}), but this restores single images.",
        "Choose one slice or frame (in napari, right-click the layer and split the stack){hint}.",
    ),
    "image-large": Fault(
        "'{name}' needs about {need} of memory, and {have} may be used.",
        "Crop the image, or close other programs.",
    ),
    "image-complex": Fault(
        "'{name}' holds complex numbers.",
        "Restore its magnitude, or its real and imaginary parts.",
    ),
    "image-bool": Fault(
        "'{name}' holds only true and false, so it is a mask and not an image.",
        "Choose the image itself as the input.",
    ),
    "image-text": Fault(
        "'{name}' holds values of type {dtype}, which are not numbers.",
        "Choose an image of numbers.",
    ),
    "image-channels": Fault(
        "'{name}' has {count} colour samples, but red, green and blue are three.",
        "Give the axes with C for channels instead of S, or drop the alpha channel.",
    ),
    # --- pixels, known after reading
    "pixels-nan": Fault(
        "{count} of the {total} pixels of '{name}' are not a number (NaN).",
        "Fill them in first, or crop to the part without them.",
    ),
    "nothing-known": Fault(
        "All pixels of '{name}' are to be filled in, so nothing tells with what.",
        "Mark fewer pixels, or turn the mask round.",
    ),
    "input-not-finite": Fault(
        "{count} of the {total} values of '{name}' are not finite numbers.",
        "Replace them first.",
    ),
    "psf-zero": Fault(
        "All values of the PSF '{name}' are 0.", "Choose the layer or file that holds the PSF."
    ),
    "psf-negative": Fault(
        "The PSF '{name}' holds negative values, but light is never negative.",
        "Subtract its true background, or set them to 0.",
    ),
    "pixels-infinite": Fault(
        "{count} of the {total} pixels of '{name}' are infinite.",
        "Replace them first, or crop to the part without them.",
    ),
    "pixels-constant": Fault(
        "All {total} pixels of '{name}' are {value}, so there is nothing to restore.",
        "Check that the right image and channel are chosen.",
    ),
    "pixels-range": Fault(
        "'{name}' spans {low} to {high}, which single precision cannot hold apart.",
        "Subtract its offset or rescale it first.",
    ),
    "resume-other": Fault(
        "The unfinished run in '{path}' is of another image, recipe or computer.",
        "Run without --resume to start anew, or give the same image and settings.",
    ),
    "resume-broken": Fault(
        "The unfinished run in '{path}' cannot be read: {why}.",
        "Run without --resume to start anew.",
    ),
}
