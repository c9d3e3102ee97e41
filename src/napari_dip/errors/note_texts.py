"""List the sentences of notes by code, and the words for the end of a fit by reason.

`{fact:?this|that}` chooses between two texts by a fact.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: As reports of an earlier version word `StopReason.PLATEAU`, without its code.
EARLIER_PLATEAU = "the pixels held out from the fit were explained no better{by} iterations"
#: Notes about files and folders.
_FILE_NOTES = {
    "files-skipped": "Files in '{folder}' that are no images by their names were left out: "
    "{count}.",
    "frames-skipped": "'{name}' is animated; only its first frame is restored.",
    "alpha-skipped": "The alpha channel of '{name}' is left out.",
    "alpha-plane-skipped": "The last of four planes of '{name}' is left out, since its header "
    "calls it alpha: name the axes {axes} (--axes {axes}) if it is a plane like the others.",
    "images-skipped": "'{name}' holds {count} images; only the first is restored.",
    "zarr-images-skipped": "'{name}' holds several images; only the first is restored.",
    "zarr-level": "The finest level of '{name}' is not the first of its list: level '{level}' is "
    "restored.",
    "zarr-transform": "'{name}' is laid out by a transform of the kind '{kind}', too, which is "
    "left out: the result lies where its pixel size and its translation say.",
    "orientation": "'{name}' is stored turned or mirrored (orientation {number}). It is restored "
    "as it is stored, and a TIFF of the result says the same.",
    "white-zero": "The header of '{name}' says that 0 is white. Its values are restored as they "
    "are stored, and a TIFF of the result says the same.",
    "colours-skipped": "The colours in which '{name}' is shown are left out: its values are "
    "restored.",
    "colour-table": "The values of '{name}' stand for the colours of a table, which are restored"
    "{axes:?; name the axes {axes} (--axes {axes}) for the values themselves}.",
    "small-copy": "'{name}' holds {count} images, and the first is a small copy: the one of "
    "{height} × {width} pixels is restored.",
    "planes-unnamed": "'{name}' holds {total} planes, but its header names {count} of them: {rest} "
    "are left out.",
    "planes-mismatched": "What the header of '{name}' says of its planes does not fit them: all "
    "{total} are taken, in the order in which they are stored.",
    "planes-twice": "The header of '{name}' names {count} of its planes more than once.",
    "ome-unreadable": "Channel names, positions and times of '{name}' cannot be read and are left "
    "out.",
    "axes-guessed": "'{name}' does not name its axes; they are taken for {axes}. If they are "
    "others, name them, such as --axes TYX for a movie.",
}
#: Notes of a plan, from headers alone.
_PLAN_NOTES = {
    "depth-assumed": "The axis of {count} planes was taken for depth. "
    "{others:?If it is none, write in 'Axes' (--axes): {others}.|Name the axes in 'Axes' (--axes) "
    "if it is none.}",
    "volume-thin": "{count} planes are too few for a volume, which takes {least}: they are "
    "restored one by one.",
    "card-memory-unknown": "Whether the GPU has that much memory free could not be checked.",
    "fewer-scales": "The image is small, so the network has {most} scales instead of {usual}.",
    "tiles": "The image is restored in {count} tiles of up to {height} × {width} pixels, one after "
    "another, which overlap and blend into each other; noise and range are measured once for all "
    "of them. 'Tile' {side} (--tile {side}) cuts it so on any computer.",
    "tiles-deep": "The stack is restored in {count} tiles of up to {depth} × {height} × {width} "
    "voxels, one after another, {apart:?plane by plane, which overlap within the plane and blend "
    "there|which overlap and blend into each other}; noise and range are measured once for all of "
    "them. 'Tile' {side} (--tile {side}) cuts it so on any computer.",
    "segments": "Restored in {count} segments, which several workers can share: each begins anew, "
    "at {called}s {which}.",
    "planes-together": "Nothing is known of a whole plane, so the planes along {axis} are fitted "
    "together, not one by one.",
    "planes-distant": "The planes lie {distance:.1f} pixels apart: where Stacks is automatic, they "
    "are restored one by one, each with a look at its neighbours.",
    "mask-one-plane": "The mask has one plane, which holds for all {count} planes.",
    "series-unused": "It is no single plane restored whole, so the network of the series is not "
    "used for it.",
    "series-unfit": "It was restored by itself, not by the network of the series, since {why}.",
    "series-network": "The network was not fitted to this image alone: it is that of the series in "
    "'{name}', fitted to {count} files.",
    "series-resumed": "The batch was begun with joint training, and is resumed with it.",
    "workers-cards": "{count} worker{several:?s} instead of {wanted}: there {several:?are|is} "
    "{count} GPU{several:?s}.",
    "workers-memory": "{count} worker{several:?s} instead of {wanted}: one file takes up to "
    "{need} of memory, and {have} are free.",
    "workers-threads": "{count} workers of {threads} threads share {cores} core{several:?s}, "
    "which slows them down: --threads {fewer} would be faster, with pixels that differ in their "
    "last digits.",
}
#: Why the noise of an image cannot be measured, by `UNRELIABLE_REASONS` of the engine; remedies.
_NOISE_DOUBTS = {
    "blocks": "The noise cannot be told from this image: too little of it was measured "
    "in one piece, so it is taken to be even and weak.",
    "clipped": "The noise cannot be told for certain: almost everywhere the image was "
    "cut off at its darkest or brightest grey value.",
    "grey values": "The noise cannot be told from this image: it is finer than the "
    "steps of its grey values.",
    "texture": "The noise cannot be told for certain: there is structure down to "
    "single pixels everywhere, so what was measured may be too much.",
    "correlation": "Whether neighbouring pixels share noise cannot be told: all parts "
    "of the image are structured, so the noise is taken to differ from pixel to pixel.",
    "brightness": "The noise cannot be told for certain: at some brightness it is off "
    "a straight line, as after a gamma curve or with speckle, or nothing is flat there.",
    "tails": "The noise cannot be told for certain: many single pixels lie further off "
    "than normal noise has it, so what was measured is that of the others.",
    "smoothed": "The noise cannot be told for certain: the image seems to have been "
    "smoothed, interpolated or compressed, so what was measured may be too little.",
}
_NOISE_REMEDY = "Where you know read noise or gain, enter them."
#: Notes about the noise measurement: first the reasons above, then the `CAUTIONS` of the engine.
_NOISE_NOTES = {
    **{f"noise-doubt-{key}": f"{text} {_NOISE_REMEDY}" for key, text in _NOISE_DOUBTS.items()},
    "noise-caution-resampled": "Noise is stronger in every second row or column, or so, as after "
    "enlarging, a colour mosaic or JPEG: it was measured as one for all.",
    "noise-caution-calm": "Hardly any part of the image is without structure, so the noise is "
    "known within a third only.",
    "noise-caution-blotches": "Every part of the image varies over eight pixels and more: that is "
    "kept as structure, so noise in blotches as wide would stay.",
    "noise-caution-lines": "Rows or columns are offset against each other: the noise model "
    "'Stripes' takes that out.",
    "noise-caution-camera": "It is the noise of a colour camera, known within a third.",
    "noise-caution-cut": "Most of the image was cut off at its darkest or brightest grey value: "
    "the noise near there is a guess.",
    "noise-caution-uneven": "At some brightness the variance of the noise is a third more or less "
    "than was estimated: after a gamma curve, or for want of flat places.",
    "noise-caution-ends": "In the darkest or brightest tenth of the image the variance of the "
    "noise is known within a fifth only.",
    "noise-caution-colours": "Neighbouring pixels share noise in this colour picture: how strong "
    "it is, is known within a third only.",
    "noise-caution-whiter": "Neighbouring pixels seem to share less noise than was measured, so "
    "the noise may be weaker.",
    "camera-noise": "The noise is that of a colour camera, which spreads it over pixels and "
    "colours; its standard deviation in luminance is {std:.2g}, within a third. Luminance and "
    "colours were filtered together.",
    "camera-maps": "By the noise map of the camera, {share:.2%} of the pixels read with more than "
    "twice the usual variance. Pixels count for the less, the noisier they read.",
    "two-exposures": "Two measurements of the object were used, each weighed by its noise, which "
    "was measured from their difference.",
    "exposures-scaled": "The repeated exposure's intensities are {gain:.3g} × those of the first "
    "{offset:+.4g}; they were brought to the first one's.",
    "noise-correlated": "Neighbouring pixels share noise here, so structure finer than {width} × "
    "{height} pixels may be smoothed away; the residual shows what was lost.",
    "noise-weaker": "A first result had lost edges or brightness, so the image was restored again "
    "with weaker noise, as the calm parts of what was lost allow.",
    "jpeg-found": "JPEG compression of quality {quality} or alike was found"
    "{halved:?, colour at half the size}: its blocks of 8 × 8 pixels begin {down} pixels down and "
    "{right} to the right.",
    "impulses-found": "{count} pixels ({share:.2%}) were found to be impulses: they count as not "
    "measured, and the picture there comes from the pixels around.",
    "impulses-likely": "About {share:.1%} of the pixels lie far off all around them: if these are "
    "faulty, the noise model 'Salt and pepper' (--noise salt-and-pepper) leaves them out.",
    "stripes-found": "{rows:?Rows|Columns} were found to have offsets of their own with a standard "
    "deviation of {deviation:.3g}: they were taken out and are part of what was learned "
    "(line_offsets).",
    "stripes-none": "No offsets of rows or columns were found above chance, so none were taken "
    "out.",
    "stripes-likely": "{rows:?Rows|Columns} are offset against each other, with a standard "
    "deviation of {deviation:.3g}: the noise model 'Stripes' (--noise stripes) takes that out.",
}
#: Notes about the pixels and about extra inputs.
_INPUT_NOTES = {
    "half-resolution": "The image has more pixels than detail: what is finer than two pixels holds "
    "neither picture nor noise. It was fitted at half its size, and enlarged again.",
    "outliers": "Pixels far outside the range of all others: {count} (up to {most:g}). They were "
    "left out of the fit and are {put_back:?in the result as measured|filled in from their "
    "surroundings}. If they are faulty, choose the noise model 'Salt and pepper (faulty pixels)'.",
    "planes-missing": "{count} of the {total} planes held no measurement and were filled from "
    "others.",
    "channel-constant": "Channel {channel} holds one value only and was left as it is.",
    "type-shortened": "Measured pixels of type {dtype} have more digits than the result's 32-bit "
    "float; 'Output type' as the input (--dtype same) keeps them exactly.",
    "input-changed": "'{name}' changed while it was being restored; result and hash are of what it "
    "was before.",
    "input-changed-in-tiles": "'{name}' changed while it was being restored in tiles, some of "
    "which may be of what it is now; run it again.",
    "guide-far": "The guide was not moved: the best shift found, {down:.1f} pixels down and "
    "{right:.1f} to the right, is too far to believe in.",
    "guide-in-place": "The guide was not moved: it lies on the image already.",
    "guide-moved": "The guide was moved by {down:.2f} pixels down and {right:.2f} to the right.",
    "psf-computed": "The PSF was computed for pixels of {width:g} × {height:g} nm"
    "{depth:? in planes {depth} nm apart}{from_file:?, as its file says}, and for a microscope "
    "without aberrations.",
    "psf-padded": "The PSF is {size} pixels wide along {axis}, an even number, so it was padded to "
    "an odd one, and its middle was moved by {shift:.2f} pixels onto a pixel.",
    "psf-centred": "The PSF lay {shift:g} pixels off its middle along {axis} and was centred.",
    "blur-gaussian": "The blur found is a Gaussian of {sigma:.2f} pixels.",
    "blur-line": "The blur found is a line of {length:.1f} pixels, {angle:.0f} degrees from the "
    "row downwards.",
    "blur-disc": "The blur found is a disc of {radius:.1f} pixels radius.",
    "network-cut": "'{network}' (SHA-256 {sha256}…) was cut at '{layer}', which answers with "
    "{answer} values to {count} pixels.",
    "network-range": "It was shown {black:g} as 0 and {white:g} as 1; {normalisation}.",
    "network-only": "No pixel was fitted: what the activations leave open, the prior has filled "
    "in.",
}
#: Words for the evidence of the validation pixels about detail.
_ANSWER = (
    "{weak:?it is too weak for the pixels that the fit never saw to tell|at pixels that the fit "
    "never saw, the measurement confirms {share} of it}{bounded:?, but it may be {little:?as "
    "little as }{least}}"
)
#: Notes about a result.
_RESULT_NOTES = {
    "residual-unjudged": "What was taken out is no noise from pixel to pixel, so it was not "
    "judged.",
    "residual-correlated": "The residual still holds structure: its neighbouring pixels are more "
    "alike than those of the noise (by {found}; up to {most} is well). Lines and spots in it were "
    "lost from the picture.",
    "residual-edges": "The residual still holds structure: along the edges of the picture its "
    "variance is {ratio:.1f} times that elsewhere. Lines and spots in it were lost.",
    "residual-no-edges": "The residual holds no edges of the picture. Whether it looks like noise "
    "is not known, since the image does not tell its noise for certain.",
    "residual-strong": "The residual is {ratio:.1f} times as strong as the measured noise, so "
    "structure may have gone with it. Look at it beside the picture.",
    "residual-weak": "The residual has {ratio:.0%} of the strength of the measured noise: either "
    "much noise was left in the picture, or there is less of it than was measured.",
    "residual-noise": "The residual looks like noise.",
    "brightness-off": "Do not use this result: in {share:.0%} of its parts of {side} × {side} "
    "pixels its brightness is not that of the input. Run it again with gain and read noise filled "
    "in, since they were probably measured wrong.",
    "pattern-lost": "A fine regular pattern with a period of {period:.1f} pixels was taken out "
    "with the noise, {share:.0%} of its power. That is well if it is the detector's. If it is the "
    "object's, run again with gain and read noise filled in, since such a pattern can be measured "
    "as noise.",
    "mean-off": "On average the result is {share:.1%} {brighter:?brighter|darker} than the input.",
    "mean-kept": "Mean intensity was kept within {share:.1%}.",
    "detail-unchecked": "Whether its detail is real was not checked, since no pixel was left out "
    "to the end. Texture inside even areas may be invented: compare another seed or preset.",
    "contrast-doubtful": f"What the picture shows may be invented: {_ANSWER}.",
    "detail-doubtful": "Fine detail of the picture {weak:?could not be confirmed|may be invented}: "
    f"{_ANSWER}.",
    "detail-confirmed": "At pixels that the fit never saw, the measurement confirms {share} of the "
    "{fine:?fine detail that the picture shows|picture's contrast}.",
    "detail-finer": "Detail finer than the measured pixels is the network's guess; nothing "
    "confirms it.",
    "holes-far": "{share:.0%} of the filled pixels lie far from any measured one: what is drawn "
    "there may be invented. Do not measure in it.",
    "holes-filled": "What fills missing pixels is a guess from what surrounds them.",
    "pixels-saturated": "{share} of the pixels are saturated, at {value:g}: what is brighter stays "
    "too dark.",
    "pixels-darkest": "{share} of the pixels have the least value, {value:g}: unless the detector "
    "counts single photons, what is darker was cut off and stays too bright.",
    "clipping-corrected": "The clipping of the noise, at {values}, was corrected: on average "
    "that makes the result {slight:?less than {share:.1%} brighter or darker|{share:.1%} "
    "{brighter:?brighter|darker}}.",
}
#: Notes about a run.
_RUN_NOTES = {
    "breakdown": "The fit broke down at iteration {broke_at}; it went back to iteration "
    "{iteration} and goes on half as fast.",
    "steps-eager": "The steps could not be recorded on the GPU ({why}), so they are "
    "computed operation by operation, which takes longer.",
    "fits-ended-early": "{several:?{count} fits were|One fit was} ended early: noise may be left "
    "in places, and detail may be missing.",
    "fit-ended-early": "The fit{part:? of {part}} was ended early{before_end:? after {count} of at "
    "most {most} iterations}: noise may be left in places, and detail may be missing.",
    "parts-unrestored": "{noun}{several:?s} {numbers}{frame:? of frame {frame}} "
    "{several:?were|was} not restored; {several:?they are|it is} as in the input.",
    "tiles-unrestored": "{left} of the {count} tiles {several:?were|was} not restored; "
    "{several:?they are|it is} as in the input.",
    "unit-ended": "Part '{unit}' was ended early: {why}.",
    "memory-kept": "The memory ran out {iteration:?at iteration {iteration}|early}; all of it was "
    "freed and the best picture so far was kept.",
    "memory-freed": "The memory ran out {iteration:?at iteration {iteration}|early}; all of it was "
    "freed and the fit went on from there{window:? with windows of {window} pixels}.",
    "device-kept": "The GPU stopped answering {iteration:?after iteration {iteration}|"
    "before the first picture}; the best picture so far was kept.",
    "shared-network": "One network was fitted to {members} parts of the data, and shown all of it.",
    "sharing-tried": "Going on with each alone, tried on {probes}, changed the log-likelihood of a "
    "validation pixel by {mean:+.4f} ± {error:.4f}: {pays:?so all went on|so none went on}.",
    "crop-preview-region": "This is a preview of rows {top} to {bottom} and columns {left} to "
    "{right}; range and noise were measured on the whole image.",
    "regions-sampled": "What is said of residual, detail and intensity was measured on {count} "
    "regions of it.",
    "experiment-crop": "Of the image its middle of {size} is looked at.",
    "experiment-grey": "Red, green and blue were averaged.",
    "experiment-ended": "Ended by hand after {count} of {total} iterations.",
    "picture-kept": "The picture is kept as '{path}'.",
    "picture-kept-bare": "The picture is kept as '{path}', without its settings and the size of "
    "its pixels.",
    "picture-lost": "No other place took the picture either: {places}.",
    "resume-hint": "The same command with --resume continues from there.",
}
NOTES: Mapping[str, str] = MappingProxyType(
    {
        "text": "{text}",
        **_FILE_NOTES,
        **_PLAN_NOTES,
        **_NOISE_NOTES,
        **_INPUT_NOTES,
        **_RESULT_NOTES,
        **_RUN_NOTES,
    }
)


class StopReason(StrEnum):
    """Why a fit ended."""

    USER = "user"
    HISTORY = "history"
    PLATEAU = "plateau"
    ITERATIONS = "iterations"
    BREAKDOWN = "breakdown"
    TIME = "time"
    MEMORY = "memory"
    DEVICE = "device"
    SHARED_NETWORK = "shared-network"
    OTHER = "other"


#: Words for the end of a fit, which follow "since".
STOPS: Mapping[StopReason, str] = MappingProxyType(
    {
        StopReason.USER: "you kept the picture",
        StopReason.HISTORY: "you kept the picture of {place} from the history of the run",
        StopReason.PLATEAU: "the validation pixels were explained no better"
        "{smoothed:? on the whole} for {waited} iterations",
        StopReason.ITERATIONS: "all {count} iterations{refitted:? before the last phase} were used",
        StopReason.BREAKDOWN: "the fit broke down {count} times in a row",
        StopReason.TIME: "the time limit of {limit:g} s was reached",
        StopReason.MEMORY: "the memory ran out",
        StopReason.DEVICE: "the GPU stopped answering",
        StopReason.SHARED_NETWORK: "the network that was fitted to all was enough",
        StopReason.OTHER: "{text}",
    }
)
