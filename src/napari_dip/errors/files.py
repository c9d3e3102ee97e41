"""List the faults of files and of images, by code."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

FILE_FAULTS = {
    "path-empty": Fault("A file name is empty.", "Name the file, with its folder if needed."),
    "path-wrong": Fault(
        "No file can be called '{path}': {why}.", "Check the name and shorten it if it is long."
    ),
    "path-url": Fault(
        "'{path}' is an address (URL), not the path of a file on this computer.", "{hint}"
    ),
    "file-missing": Fault("There is no file '{path}'.", "Check the spelling and the folder."),
    "file-is-folder": Fault("'{path}' is a folder, not an image file.", "Name one file in it."),
    "file-unreadable": Fault(
        "'{path}' cannot be opened: {why}.",
        "Check its permissions, or copy it to a folder of yours.",
    ),
    "file-type": Fault(
        "'{path}' is not a kind of image file that can be read here ({why}).",
        "Save it as TIFF or PNG and try again.",
    ),
    "file-broken": Fault(
        "'{path}' is cut off or damaged: {why}.", "Copy or export it again from its source."
    ),
    "file-empty": Fault("'{path}' holds no bytes.", "Copy or export it again from its source."),
    "file-long": Fault(
        "'{path}' holds {size}, far more than {kind} does.",
        "Check that it is the right file.",
    ),
    "file-elsewhere": Fault(
        "'{path}' says that a part of it lies in '{other}', which is outside its own folder.",
        "Put all its files into one folder, or save it as one file.",
    ),
    "file-codec": Fault(
        "'{path}' is compressed with {codec}, which cannot be read here.",
        "Save the image without compression, or with LZW or Deflate.",
    ),
    "file-colours": Fault(
        "'{path}' holds its colours as {coded}, not as red, green and blue.",
        "Convert it to RGB or to grey values, and save it as TIFF or PNG.",
    ),
    "extra-missing": Fault(
        "'{path}' is {kind}, and what reads and writes that is not installed.",
        'Install it with: pip install "napari-dip[{extra}]"; or save the image as TIFF.',
    ),
    "zarr-none": Fault(
        "'{path}' holds no OME-Zarr image: {why}.",
        "Name the folder of one image, in which .zattrs or zarr.json states multiscales.",
    ),
    "zarr-version": Fault(
        "'{path}' is an OME-Zarr of version {version}; versions 0.4 and 0.5 are read.",
        "Convert it to one of these, or save the image as TIFF.",
    ),
    "zarr-gaps": Fault(
        "'{path}' lacks {count} of {total} chunks of its pixels, which would be read as {fill}.",
        "Copy it again from its source; if it is meant to be empty there, save it with all chunks.",
    ),
    "zarr-foreign": Fault(
        "'{path}' is a folder that holds no Zarr, and would be lost.",
        "Move it away, or choose another name for the result.",
    ),
    "zarr-shared": Fault(
        "'{path}' holds '{other}' beside its image, and that would be lost with it.",
        "Move it away, or choose another name for the result.",
    ),
    "result-untold": Fault(
        "'{path}' does not say how it was made: {why}.",
        "Choose a TIFF that napari-dip saved, or the report of its run (--report).",
    ),
    "folder-gone": Fault(
        "The folder that this program was started in does not exist any more.",
        "Change to a folder that exists, and try again.",
    ),
    "output-folder-missing": Fault(
        "The folder '{folder}' for the result does not exist.",
        "Create it, or name another one.",
    ),
    "output-exists": Fault(
        "'{path}' already exists and would be lost.",
        "Choose another name, or add --overwrite to replace it.",
    ),
    "output-is-input": Fault(
        "The result would replace its own input '{path}'.",
        "Choose another name for the result.",
    ),
    "output-is-folder": Fault(
        "'{path}' is a folder, so the result cannot be saved under that name.",
        "Add a file name that ends in .tif.",
    ),
    "output-type": Fault(
        "Results are saved as TIFF or OME-Zarr, but '{path}' ends in '{suffix}'.",
        "Let the name end in .tif, .tiff or .ome.zarr.",
    ),
    "output-nameless": Fault(
        "'{path}' is an ending only: the name before it is missing.",
        "Write a name before the ending, such as out{suffix}.",
    ),
    "output-json": Fault(
        "Recipes and reports are saved as JSON, but '{path}' ends in '{suffix}'.",
        "Let the name end in .json.",
    ),
    "output-special": Fault(
        "'{path}' is a pipe or a device, so nothing can be saved under that name.",
        "Choose another name for the result.",
    ),
    "output-readonly": Fault(
        "'{folder}' does not let files be written: {why}.",
        "Choose a folder that you may write to.",
    ),
    "output-full": Fault(
        "'{folder}' has no room for the result: {why}.",
        "Free some space, or choose a folder on another disk.",
    ),
    "output-failed": Fault(
        "'{folder}' does not take files: {why}.",
        "Choose another folder, and see to that disk or connection.",
    ),
    "output-moved": Fault(
        "'{path}' leads elsewhere than when the run was begun.",
        "See who has replaced that folder; nothing was written through it.",
    ),
    "output-unprinted": Fault(
        "What was found could not be printed: {why}.",
        "Let the output go to a terminal, or to a file on a disk with room.",
    ),
    "output-busy": Fault(
        "Another run is at work on '{path}' (process {process} on '{host}').",
        "Wait for its end, or choose another name for the result.",
    ),
    "output-twice": Fault(
        "Two results of this run would go to '{path}'.", "Give each result its own name."
    ),
    # --- many files at once
    "folder-is-file": Fault(
        "'{path}' is a file, so no results can be saved in it.", "Name a folder for the results."
    ),
    "batch-none": Fault(
        "No input is given.", "Name files, folders or patterns such as 'data/*.tif'."
    ),
    "batch-paths": Fault(
        "{what} must be named by a path, but {found} was given.",
        "Name files, folders or patterns such as 'data/*.tif' as text; arrays are taken by "
        "napari_dip.restore.",
    ),
    "batch-empty": Fault(
        "No image file is found for '{pattern}'.",
        "Check the spelling; a folder stands for the images in it, not for those further below.",
    ),
    "batch-among": Fault(
        "The results would lie among their inputs in '{folder}'.",
        "Choose another folder for the results.",
    ),
    "batch-names": Fault(
        "The results of '{first}' and '{second}' would both be called '{name}'.",
        "Rename one of them, or give each its own folder of results.",
    ),
    "batch-exists": Fault(
        "'{path}' already exists and would be lost.",
        "Add --resume (resume=True) to resume the batch in that folder, or choose another one.",
    ),
    "batch-foreign": Fault(
        "'{path}' already exists, does not come from this batch, and would be lost.",
        "Move it away, or choose another folder for the results.",
    ),
    "output-linked": Fault(
        "'{path}' is a link, so what belongs to this result would be written elsewhere.",
        "Remove that link, or choose another place for the result.",
    ),
    "batch-recipe": Fault(
        "The results in '{folder}' come from another recipe.",
        "Give the recipe that they come from, or choose another folder for the results.",
    ),
    "batch-broken": Fault(
        "The list of the batch in '{path}' cannot be read: {why}.",
        "Choose another folder for the results, or remove that list and the results with it.",
    ),
    "batch-refused": Fault(
        "No file of the {count} can be restored; the first: {sentence}", "{remedy}"
    ),
}
PIXEL_FAULTS = {
    # --- pixels, known from the header
    "image-none": Fault("No image is chosen.", "Open an image and choose it as the input."),
    "image-not-array": Fault(
        "'{name}' is no array of numbers: {why}.",
        "Give a NumPy array, a dask array, lists of equal length or the path of an image file.",
    ),
    "array-broken": Fault(
        "The pixels of '{name}' could not be computed: {why}.",
        "Fix the code that computes its blocks, or save it as a file first.",
    ),
    "array-other": Fault(
        "'{name}' announces {said}, but its blocks give {found}.",
        "Fix the code that computes its blocks, or compute it first and give the NumPy array.",
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
        "The repeated exposure '{name}' is {size}, but '{image}' is {other}.",
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
        "The noise map '{name}' is not used beside the repeated exposure '{second}': noise is then "
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
        "JPEG compression is undone in one picture, but '{name}' is given as a repeated exposure.",
        "Leave the repeated exposure out, or choose another noise model.",
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
        "{noise} is found in one picture, but '{name}' is given as a repeated exposure.",
        "Leave the repeated exposure out, or choose another noise model.",
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
        "The repeated exposure '{name}' holds the same pixels as '{image}', so it measures "
        "nothing new.",
        "Choose another shot of the same object, or none.",
    ),
    "second-other": Fault(
        "The repeated exposure '{name}' does not show what '{image}' shows: their correlation is "
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
        "Choose the prior 'Automatic' or 'Deep Image Prior'; or give a picture of 16 pixels or "
        "more along each axis, without a PSF, and the same factor for all axes that are enlarged.",
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
