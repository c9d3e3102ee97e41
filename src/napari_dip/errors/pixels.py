"""What can be wrong with pictures: known from the header, or from the pixels."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

PIXEL_FAULTS = {
    # --- pixels, known from the header
    "image-none": Fault("No image is chosen.", "Open an image and choose it as the input."),
    "image-not-array": Fault(
        "'{name}' is no array of numbers: {why}.",
        "Give a NumPy array, a dask array, lists of equal length or the path of an image file.",
    ),
    "array-broken": Fault(
        "The pixels of '{name}' could not be computed: {why}.",
        "Mend what makes its blocks, or save it as a file first.",
    ),
    "array-other": Fault(
        "'{name}' said that it holds {said}, but came to {found}.",
        "Mend what makes its blocks, or compute it first and give the NumPy array.",
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
    "planes-many": Fault(
        "'{name}' holds more than {most} planes, which is more than one run restores.",
        "Split it into several files or shorter stacks, and restore these one by one.",
    ),
    "image-large": Fault(
        "'{name}' needs about {need} of memory, and {have} may be used.",
        "Crop the image, or close other programs.",
    ),
    "result-large": Fault(
        "To restore '{name}' about {need} of memory is needed, and {have} may be used.",
        "Crop the image, choose a smaller factor or PSF, or close other programs.",
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
    "guide-size": Fault(
        "The guide '{name}' is {height} × {width} pixels, but '{image}' is {other_height} × "
        "{other_width}.",
        "Crop or resample the guide to the image's size.",
    ),
    "guide-stack": Fault(
        "The guide '{name}' is a stack (axes {axes}, sizes {shape}), not one picture.",
        "Choose one slice or frame, or tick 'Planes are channels' (--planes-are-channels) if it "
        "is one picture in channels.",
    ),
    "second-size": Fault(
        "The second image '{name}' is {size}, but '{image}' is {other}.",
        "Choose another shot of the same part of the object, or crop both alike.",
    ),
    "map-size": Fault(
        "The map '{name}' is {size} pixels, but '{image}' is {want}.",
        "Crop the map to the part of the camera that the image was taken with.",
    ),
    "map-noise": Fault(
        "'{name}' is a map of a camera, but the chosen noise model is not of a camera.",
        "Set 'Noise model' (--noise) to 'Automatic', or leave the map out.",
    ),
    "map-gain-alone": Fault(
        "The gain map '{name}' says how light is amplified, and without an offset map nothing says "
        "what is light.",
        "Choose an offset map as well (--offset-map), or leave the gain map out.",
    ),
    "map-second": Fault(
        "The noise map '{name}' is not used beside the second image '{second}': noise is then "
        "measured from the difference of the two.",
        "Leave one of the two out.",
    ),
    "map-not-positive": Fault(
        "{count} of the {total} values of the {what} map are not above 0, which no camera has.",
        "Check that the maps are not mixed up, or make them anew (napari-dip camera-maps).",
    ),
    "truth-size": Fault(
        "The truth '{name}' is {size}, but '{image}' is {other}.",
        "Choose the same picture without noise, or crop both alike.",
    ),
    "explore-channels": Fault(
        "'{name}' has {count} channels, but the prior is shown on one picture.",
        "Choose one channel, or name the axes YXS if these are red, green and blue.",
    ),
    "jpeg-second": Fault(
        "JPEG compression is undone in one picture, but '{name}' is given as a second image.",
        "Leave the second image out, or choose another noise model.",
    ),
    "jpeg-channels": Fault(
        "JPEG compression is undone in greyscale and colour pictures, but '{name}' has {count} "
        "channels.",
        "Choose one channel, or name the axes YXS if these are red, green and blue.",
    ),
    "jpeg-volume": Fault(
        "JPEG compression is undone plane by plane, but '{name}' is to be restored as a volume.",
        "Set 'Stacks' (--stacks) to 'Automatic' or 'Plane by plane'.",
    ),
    "named-second": Fault(
        "{noise} is found in one picture, but '{name}' is given as a second image.",
        "Leave the second image out, or choose another noise model.",
    ),
    "impulses-volume": Fault(
        "Salt and pepper is found plane by plane, but '{name}' is to be restored as a volume.",
        "Set 'Stacks' (--stacks) to 'Automatic' or 'Plane by plane'.",
    ),
    # --- pixels, known after reading
    "speckle-negative": Fault(
        "{count} of the {total} pixels of '{name}' are negative (the least is {least}), but "
        "speckle multiplies a signal and never gives such.",
        "Undo what subtracted a background, add the offset back, or choose another noise model.",
    ),
    "jpeg-none": Fault(
        "'{name}' shows no trace of JPEG compression: no grid of 8 × 8 blocks, or it was resized "
        "since.",
        "Choose the file as it was compressed, or another noise model.",
    ),
    "second-same": Fault(
        "The second image '{name}' holds the same pixels as '{image}', so it measures nothing new.",
        "Choose another shot of the same object, or none.",
    ),
    "second-other": Fault(
        "The second image '{name}' does not show what '{image}' shows: their correlation is "
        "{found}, and at least {least} is needed.",
        "Choose another shot of the same object, align the two first, or choose none.",
    ),
    "frames-few": Fault(
        "'{name}' holds {count} frame, but {least} of the same light are needed: noise is what "
        "differs between them.",
        "Take another frame and save both as one stack, or leave these frames out.",
    ),
    "frames-constant": Fault(
        "The frames of '{name}' hold one value only, or values that are no numbers.",
        "Take frames with the detector's own settings, without scaling or subtraction.",
    ),
    "frames-size": Fault(
        "The frames of '{name}' are {size} pixels, but those of '{other}' are {want}.",
        "Take all frames with the same part of the camera.",
    ),
    "camera-levels": Fault(
        "'{name}' is the only flat file, but a gain takes two light levels or more.",
        "Add frames of another light, one file each, or leave --flat out for no gain map.",
    ),
    "camera-not-lit": Fault(
        "The flat frames of '{name}' are no brighter than the dark frames of '{dark}'.",
        "Check that --dark and --flat are not mixed up, or take flat frames with more light.",
    ),
    "guide-constant": Fault(
        "All pixels of the guide are {value}, so it shows nothing.",
        "Check that the right picture and channel are chosen as the guide.",
    ),
    "pixels-nan": Fault(
        "{count} of the {total} pixels of '{name}' are not a number (NaN).",
        "Fill them in with Inpaint (napari-dip inpaint), which takes them as holes, or crop the "
        "image.",
    ),
    "holes-none": Fault(
        "'{name}' has no pixels to fill in: no mask is chosen, and every value is a number.",
        "Choose a mask that marks them, or set them to NaN.",
    ),
    "mask-missing": Fault(
        "No mask is chosen, and without one there is nothing to invert or to pick a label from.",
        "Choose a mask for '{name}', or leave 'Invert mask' and 'Only this label' alone.",
    ),
    "mask-planes": Fault(
        "'{name}' has the shape {shape}, but a mask is a single plane without colours.",
        "Choose one slice or one channel of it.",
    ),
    "mask-stack": Fault(
        "The mask '{name}' is {shape}, but '{image}' is {want}.",
        "Choose a mask of the same size, or of one plane, which then holds for all planes.",
    ),
    "plane-unknown": Fault(
        "Of {count} of the {total} parts of '{name}' nothing is known, and no others can tell.",
        "Restore it as a stack whose neighbouring planes or frames are known, or leave these out.",
    ),
    "mask-shape": Fault(
        "The mask '{name}' is {height} × {width} pixels, but '{image}' is "
        "{image_height} × {image_width}.",
        "Choose the mask that was made for this image, or crop both alike.",
    ),
    "mask-empty": Fault(
        "The mask marks no pixel of '{name}'.",
        "Paint the pixels to fill in, or tick 'Invert mask' if the mask shows what is good.",
    ),
    "mask-full": Fault(
        "The mask marks all {total} pixels of '{name}', so nothing is left to learn from.",
        "Paint only the pixels to fill in, tick 'Invert mask', or grow the mask by less.",
    ),
    "mask-label": Fault(
        "The mask has no label {label}; its labels are: {found}.",
        "Choose one of them, or leave 'Only this label' empty.",
    ),
    "nothing-known": Fault(
        "All pixels of '{name}' are to be filled in, so nothing tells with what.",
        "Mark fewer pixels, or turn the mask round.",
    ),
    "input-not-finite": Fault(
        "{count} of the {total} values of '{name}' are not finite numbers.",
        "Replace them first.",
    ),
    "psf-zero": Fault("All values of the PSF are 0.", "Choose the layer or file that holds it."),
    "psf-negative": Fault(
        "The PSF holds negative values, but light is never negative.",
        "Subtract its true background, or set them to 0.",
    ),
    "psf-missing": Fault(
        "No PSF is given, and '{name}' cannot be deblurred without one.",
        "Choose a layer or file that holds it (--psf), give the width of a Gaussian "
        "(--gaussian-sigma), or name a microscope (--model).",
    ),
    "psf-twice": Fault(
        "The PSF is given twice: by {first} and by {second}.", "Leave one of the two out."
    ),
    "psf-axes": Fault(
        "The PSF '{name}' has the shape {shape}, but to single planes belongs one with two axes, "
        "and to a volume one with two or three.",
        "Choose its plane in focus, without colours{hint}.",
    ),
    "psf-large": Fault(
        "The PSF is {psf} pixels, more than the {frame} of '{name}'.",
        "Take a larger image, or check width and pixel size of the PSF.",
    ),
    "gaussian-axial": Fault(
        "The width of the Gaussian is given along Z alone.",
        "Fill in 'Gaussian blur (SD, pixels)' (--gaussian-sigma) too, or leave both empty.",
    ),
    "gaussian-depth": Fault(
        "The Gaussian has a width along Z, but '{name}' is restored in single planes.",
        "Leave that width empty, or restore a stack of four planes or more as a volume.",
    ),
    "z-step-missing": Fault(
        "To compute the PSF of a volume, the distance of its planes is needed, and '{name}' does "
        "not say it.",
        "Fill in 'Distance of planes' (--z-step), or set 'Stacks' to 'Plane by plane'.",
    ),
    "scales-none": Fault(
        "'{name}' has no coarser scale that was made as its own pixels were.",
        "Choose the prior 'Automatic' or 'Fixed noise'; or give a picture of 16 pixels or more "
        "along each axis, without a PSF, and the same factor for all axes that are enlarged.",
    ),
    "factor-depth": Fault(
        "The factor {factor} is for a volume, but '{name}' is restored in single planes.",
        "Give one number, or two as Y,X; or restore a stack (axis Z) of four planes or more as a "
        "volume.",
    ),
    "optics-missing": Fault(
        "To compute the PSF of a microscope, its {missing} is needed.",
        "Give it, or choose a PSF from a layer or file (--psf).",
    ),
    "optics-impossible": Fault(
        "A numerical aperture of {na} is not possible in a medium of refractive index {index}.",
        "Check both; the index is 1 for air, 1.333 for water, 1.518 for oil.",
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
