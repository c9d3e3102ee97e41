"""Measure the point spread function (PSF) of a microscope from an image of beads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from napari_dip.errors import RefusedError, raise_if_refused
from napari_dip.errors.templates import render_text
from napari_dip.io.outputs import resolve_output
from napari_dip.io.writing import write_bytes, write_image
from napari_dip.pipeline.assess.report_figures import (
    draw_titled_image,
    format_small_axes,
    make_figure,
    render_figure,
    use_default_style,
)
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.measure.beads import (
    MIN_BOOTSTRAP_BEADS,
    BeadFault,
    FieldFit,
    average_beads,
    bootstrap_fwhm,
    clean_field,
    clean_mean,
    cut_out_beads,
    fit_core,
    fit_field,
    measure_fwhm,
    remove_bead_size,
)
from napari_dip.pipeline.plan.layout import refuse_header
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.torch_state import load_torch, use_default_torch_state
from napari_dip.tasks.deblur import get_psf_source
from napari_dip.tasks.psf.psf_checks import MAX_WIDTH_RATIO, estimate_widths, make_border_mask
from napari_dip.tasks.psf.psf_settings import PSF_PROVENANCE_KEY, OpticsSettings, PsfSource
from napari_dip.tasks.shared_settings import get_stacked_axes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from napari_dip.io import AnyArray, Float32Array, FloatArray, ImageHeader
    from napari_dip.public_types import AxisLetters, FilePath, ImageLike, OpticsKeywords
    from napari_dip.tasks.base import Task
    from napari_dip.tasks.deblur import Deblur

#: Share of the light in the outermost pixels from which on the report says that tails are cut.
_MAX_BORDER_LIGHT = 0.01

_FAULT_LABELS = {
    BeadFault.BORDER: "too near to the border",
    BeadFault.CROWDED: "too near to another",
    BeadFault.SATURATED: "saturated",
    BeadFault.SHAPE: "wider or narrower than the others",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PsfProfile:
    """A profile of a PSF of height one.

    Attributes
    ----------
    axis : str
        "Z", "Y" or "X".
    is_measured : bool
        False: of the computed PSF.
    positions : ndarray
        Distances from the middle, in nm or pixels.
    values : ndarray
    """

    axis: str
    is_measured: bool
    positions: FloatArray
    values: Float32Array


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PsfField:
    """PSFs in the middles of equal parts of the field.

    Attributes
    ----------
    psfs : ndarray
        (rows, columns, *sizes) float32, each of sum one.
    fwhm : ndarray
        (rows, columns, axes): their full widths at half maximum, in pixels.
    size : tuple of int
        Height and width of the field, in pixels.
    degree : int
        Of the polynomials over the field; 0 where no change was found.
    """

    psfs: Float32Array
    fwhm: FloatArray
    size: tuple[int, int]
    degree: int

    @property
    def lateral_widths(self) -> FloatArray:
        """Mean of the widths along Y and X, (rows, columns)."""
        return np.asarray(self.fwhm[..., -2:].mean(-1))

    @property
    def sentence(self) -> str:
        """Return the result as a sentence for the user."""
        if not self.degree:
            return render_text("beads-same")
        low, high = self.lateral_widths.min(), self.lateral_widths.max()
        return render_text("beads-change", low=low, high=high, degree=self.degree)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PsfReport:
    """A measured PSF, its widths, and the beads behind it.

    Attributes
    ----------
    name : str
        Name of the image of beads.
    psf : ndarray
        (Y, X) or (Z, Y, X) float32 of sum one; sizes are odd, and the peak is in the middle.
    axes : str
        "YX" or "ZYX".
    fwhm : tuple of float
        Full width at half maximum along each axis, in pixels.
    fwhm_error : tuple of float or None
        Its standard error, by bootstrap over the beads; None from fewer than three beads.
    pixel_nm : tuple of float or None
        Pixel size along each axis in nm; None where neither file nor user state it.
    positions : ndarray
        (beads, axes): pixel nearest to the middle of each bead that was used.
    rejected : mapping of BeadFault to int
        How many beads were not used, by reason.
    signal_to_noise : float
        Median height of the beads, in standard deviations of the background's noise.
    bead_diameter : float
        Diameter in nm that was taken out of the PSF; 0: none.
    computed_psf : ndarray or None
        PSF of the named microscope without aberrations.
    computed_fwhm : tuple of float or None
        Its widths, measured in the same way.
    field : PsfField or None
        PSFs that change over the field; `psf` is then that of its middle. None: not asked for.
    """

    name: str
    psf: Float32Array
    axes: str
    fwhm: tuple[float, ...]
    fwhm_error: tuple[float, ...] | None
    pixel_nm: tuple[float | None, ...]
    positions: AnyArray
    rejected: Mapping[BeadFault, int] = field(default_factory=dict)
    signal_to_noise: float
    bead_diameter: float = 0.0
    computed_psf: Float32Array | None = None
    computed_fwhm: tuple[float, ...] | None = None
    field: PsfField | None = None

    def __repr__(self) -> str:
        """Return one line: the first sentence."""
        return f"<PsfReport: {self.sentences[0]}>"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return the report as sentences for the user."""
        faults = [f"{count} {_FAULT_LABELS[fault]}" for fault, count in self.rejected.items()]
        widths = [self._format_width(axis) for axis in range(len(self.axes))]
        count = len(self.positions)
        lines = [
            render_text(
                "beads-averaged",
                count=count,
                total=count + sum(self.rejected.values()),
                name=self.name,
                faults=", ".join(faults),
                height=self.signal_to_noise,
            ),
            render_text("beads-width", field=self.field is not None, widths=", ".join(widths)),
        ]
        if self.field is not None:
            lines.append(self.field.sentence)
        if self.fwhm_error is None:
            lines.append(render_text("beads-few", least=MIN_BOOTSTRAP_BEADS))
        if self.bead_diameter:
            lines.append(render_text("beads-size", diameter=self.bead_diameter))
        if (cut := float(self.psf[make_border_mask(self.psf.shape)].sum())) > _MAX_BORDER_LIGHT:
            lines.append(render_text("beads-tails", cut=cut))
        return (*lines, *self._compare())

    def list_profiles(self) -> list[PsfProfile]:
        """Return the profiles through the middle along each axis, measured and computed."""
        profiles = []
        psfs = [psf for psf in (self.psf, self.computed_psf) if psf is not None]
        for axis, (name, step) in enumerate(zip(self.axes, self._profile_steps, strict=True)):
            for psf in psfs:
                middle = np.array(psf.shape) // 2
                values = np.moveaxis(psf, axis, -1)[*np.delete(middle, axis)] / psf.max()
                profiles.append(
                    PsfProfile(
                        axis=name,
                        is_measured=psf is self.psf,
                        positions=(np.arange(len(values)) - middle[axis]) * step,
                        values=values,
                    )
                )
        return profiles

    @property
    def _profile_steps(self) -> list[float]:
        """Distance of pixels in profiles along each axis: in nm if known, else 1 pixel."""
        return [size or 1.0 if self.has_pixel_sizes else 1.0 for size in self.pixel_nm]

    @property
    def has_pixel_sizes(self) -> bool:
        """Whether positions of profiles are in nm; otherwise they are in pixels."""
        return None not in self.pixel_nm

    @property
    def profile_reach(self) -> float:
        """Distance from the middle up to which profiles are shown: three times the width."""
        pairs = zip(self.fwhm, self._profile_steps, strict=True)
        return max(3 * width * size for width, size in pairs)

    def _format_width(self, axis: int) -> str:
        """Return the width along one axis, with its error, in pixels and in nm."""
        error = "" if self.fwhm_error is None else f" ± {self.fwhm_error[axis]:.2g}"
        size = self.pixel_nm[axis]
        length = f" ({self.fwhm[axis] * size:.0f} nm)" if size else ""
        return f"{self.axes[axis]} {self.fwhm[axis]:.3g}{error} pixels{length}"

    def _compare(self) -> list[str]:
        """Compare the widths with those of the computed PSF."""
        if self.computed_fwhm is None:
            return []
        ratios = np.divide(self.fwhm, self.computed_fwhm)
        parts = [f"{ratio:.2f} along {axis}" for ratio, axis in zip(ratios, self.axes, strict=True)]
        lines = [render_text("beads-compared", ratios=", ".join(parts))]
        if max(ratios) > MAX_WIDTH_RATIO:
            lines.append(render_text("beads-wide"))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report, without pixels, in plain JSON types."""
        return {
            "beads": len(self.positions),
            "rejected": {str(fault): count for fault, count in self.rejected.items()},
            "positions": self.positions.tolist(),
            "axes": self.axes,
            "shape": list(self.psf.shape),
            "fwhm_pixels": list(self.fwhm),
            "fwhm_error_pixels": None if self.fwhm_error is None else list(self.fwhm_error),
            "pixel_nm": list(self.pixel_nm),
            "signal_to_noise": self.signal_to_noise,
            "bead_diameter_nm": self.bead_diameter,
            "field_size": None if self.field is None else list(self.field.size),
            "field_degree": None if self.field is None else self.field.degree,
            "field_fwhm_pixels": None if self.field is None else self.field.fwhm.tolist(),
            "computed_fwhm_pixels": self.computed_fwhm and list(self.computed_fwhm),
            "sentences": list(self.sentences),
        }

    def save(self, path: FilePath, *, overwrite: bool = False) -> Path:
        """Write the PSF as 32-bit TIFF or OME-Zarr with its pixel size, and a figure beside it.

        PSFs that change over the field are the planes or stacks of one file, whose first two axes
        are the rows and columns of the field: T and Z of planes, T and C of stacks.

        Returns
        -------
        Path
            Path of the PSF; the figure has the same name and ends in .png.

        Raises
        ------
        RefusedError
            If one of the files exists and must not be replaced, or cannot be made.
        FailedError
            If a file cannot be written.
        """
        target, figure = resolve_psf_outputs(path, overwrite=overwrite)
        sizes = [size for size in self.pixel_nm if size]
        leading = "" if self.field is None else "TZ" if self.axes == "YX" else "TC"
        scale = (1.0,) * len(leading) + tuple(size / 1000 for size in sizes)
        units = ("pixel",) * len(leading) + ("micrometer",) * len(sizes)
        write_image(
            target,
            self.psf if self.field is None else self.field.psfs,
            axes=leading + self.axes,
            scale=scale if self.has_pixel_sizes else None,
            units=units if self.has_pixel_sizes else None,
            provenance={PSF_PROVENANCE_KEY: self.to_dict()},
            overwrite=overwrite,
        )
        write_bytes(figure, plot_psf(self), overwrite=overwrite)
        return target


def resolve_psf_outputs(
    path: FilePath, inputs: Sequence[FilePath] = (), *, overwrite: bool
) -> tuple[Path, Path]:
    """Check that PSF and figure can be saved; return the two paths to write to.

    Raises
    ------
    RefusedError
        If a name cannot be used, or a file exists and must not be replaced.
    """
    target = resolve_output(path, inputs, overwrite)
    return target, resolve_output(target.with_suffix(".png"), inputs, overwrite, suffixes=(".png",))


def measure_psf(
    beads: ImageLike,
    axes: AxisLetters | None = None,
    *,
    bead_diameter: float = 0.0,
    field: bool = False,
    **microscope: Unpack[OpticsKeywords],
) -> PsfReport:
    """Find beads, align them by parts of a pixel, average them and clean the mean.

    Beads near the border, near others, saturated, or of another width than most are left out. Each
    bead is aligned to the mean of all by least squares (offset, height and background), and moved
    in the Fourier domain. In the mean, light that does not stand out of its noise is set to 0. The
    width is that of a function fitted to the core, near to a Gaussian.

    Parameters
    ----------
    beads : path or array-like
        One plane (Y, X), or one stack (Z, Y, X), of bright beads on a dark background.
    axes : str, optional
        Axes that override those in the file.
    bead_diameter : float, nm
        Diameter of the beads. Above 0 their size is taken out by Richardson-Lucy deconvolution;
        below a third of the width it hardly matters.
    field : bool
        Whether the PSF changes over the field: `report.field.psfs` are then those of 7 x 7 equal
        parts. Each pixel is fitted by a polynomial of the place, whose degree predicts beads best
        that were left out of the fit. Beads must lie in all ninths of the field.
    **microscope
        Settings of `deblur`: `pixel_size` and `z_step` in nm, by default as the file says; and
        `microscope`, `na`, `wavelength`, `refractive_index`, `excitation` and `pinhole`, where the
        measured PSF shall be compared with a computed one.

    Returns
    -------
    PsfReport

    Raises
    ------
    RefusedError
        If the image is not a plane or a stack, no bead can be used, too few for a field, or the
        pixel size is missing.

    Examples
    --------
    >>> report = dip.measure_psf(beads, pixel_size=65)
    >>> result = dip.deblur(image, report.psf, preset="fast", max_iterations=10)
    """
    header, read_image = open_input("beads", beads, axes)
    return make_psf_report(
        header, read_image, bead_diameter=bead_diameter, field=field, **microscope
    )


def make_psf_report(
    header: ImageHeader,
    read_image: Callable[[], AnyArray],
    *,
    bead_diameter: float = 0.0,
    field: bool = False,
    **microscope: Any,
) -> PsfReport:
    """Measure a PSF as `measure_psf` does, from a header and a function that reads the pixels."""
    raise_if_refused(refuse_header(header))
    psf_source = _read_psf_source(microscope)
    optics = psf_source.optics
    fit_axes = _choose_fit_axes(header, psf_source, bead_diameter)
    image = np.asarray(read_image(), np.float64)
    order = sorted(range(image.ndim), key=lambda axis: "TCSZYX".index(header.axes[axis]))
    image = image.transpose(order).reshape(header.get_sizes(fit_axes))
    if wrong := int((~np.isfinite(image)).sum()):
        raise RefusedError("input-not-finite", name=header.name, count=wrong, total=image.size)
    crops, positions, rejected, noise = cut_out_beads(header.name, image, is_field=field)
    pixel_nm = optics.get_pixel_sizes(header, fit_axes)
    bead_sizes = [bead_diameter / size for size in pixel_nm if size] if bead_diameter else []
    psf_field = None
    if field:
        places = (positions[:, -2:] + 0.5) * 2 / image.shape[-2:] - 1
        fit = fit_field(header.name, crops, places)
        psf_field = _make_psf_field(fit, estimate_widths(np.median(crops, 0)), bead_sizes, header)
        middle = tuple(count // 2 for count in psf_field.psfs.shape[:2])
        psf: FloatArray | Float32Array = psf_field.psfs[middle]
        fwhm, error = psf_field.fwhm[middle], cast("FloatArray | None", fit.fwhm_error)
        heights, is_used = fit.heights, fit.is_used
    else:
        mean, aligned, heights, is_used = average_beads(crops)
        psf = clean_mean(mean)
        fwhm = fit_core(mean, estimate_widths(mean)).fwhm
        error = bootstrap_fwhm(aligned[is_used], heights[is_used], fwhm)
        if bead_diameter:
            blurred_fwhm = fwhm
            psf = remove_bead_size(psf, bead_sizes)
            fwhm = fit_core(psf, fwhm).fwhm
            error = None if error is None else error * blurred_fwhm / fwhm
    if not is_used.all():
        rejected[BeadFault.SHAPE] = int((~is_used).sum())
    computed = _compute_psf(header, psf_source, fit_axes)
    return PsfReport(
        name=header.name,
        psf=psf.astype(np.float32),
        axes=fit_axes,
        fwhm=tuple(map(float, fwhm)),
        fwhm_error=None if error is None else tuple(map(float, error)),
        pixel_nm=pixel_nm,
        positions=positions[is_used],
        rejected=rejected,
        signal_to_noise=float(np.median(heights[is_used])) / noise,
        bead_diameter=bead_diameter,
        computed_psf=computed,
        computed_fwhm=None if computed is None else tuple(measure_fwhm(computed)),
        field=psf_field,
    )


def _make_psf_field(
    fit: FieldFit, fwhm: FloatArray, bead_sizes: list[float], header: ImageHeader
) -> PsfField:
    """Return the PSFs of the parts of the field, and their widths."""
    psfs = clean_field(fit, fwhm)
    sizes = psfs.shape[2:]
    flat = psfs.reshape(-1, *sizes)
    if bead_sizes:
        flat = np.array([remove_bead_size(psf, bead_sizes) for psf in flat])
    widths = np.array([measure_fwhm(psf) for psf in flat])
    return PsfField(
        psfs=flat.reshape(psfs.shape).astype(np.float32),
        fwhm=widths.reshape(*psfs.shape[:2], -1),
        size=header.grid,
        degree=fit.degree,
    )


def list_microscope_settings(task: Task, header: ImageHeader) -> dict[str, Any]:
    """Return the settings of *Deblur* that are arguments of `measure_psf` for an image of beads.

    Pixel sizes of the beads come before those of the task, which are its image's. The microscope is
    left out where aperture or wavelength is missing, and is a widefield one by default.
    """
    optics = get_psf_source(cast("Deblur", task)).optics
    stated = replace(optics, pixel_size=None, z_step=None)
    settings = {name: value for name, value in asdict(optics).items() if value is not None}
    for name, axis in (("pixel_size", "X"), ("z_step", "Z")):
        if stated.get_pixel_sizes(header, axis)[0]:
            settings.pop(name, None)
    if None in (optics.na, optics.wavelength):
        return {name: settings[name] for name in ("pixel_size", "z_step") if name in settings}
    return {
        **settings,
        "microscope": "widefield" if optics.microscope == "none" else optics.microscope,
    }


def _read_psf_source(microscope: Mapping[str, Any]) -> PsfSource:
    """Validate settings of the microscope as *Deblur* does."""
    names = {field.name for field in fields(OpticsSettings)}
    if unknown := sorted(set(microscope) - names):
        raise TypeError(f"`measure_psf` has no argument {', '.join(unknown)}.")
    task = cast("Deblur", make_recipe("deblur", **microscope).task)
    return get_psf_source(task)


def _choose_fit_axes(header: ImageHeader, psf_source: PsfSource, bead_diameter: float) -> str:
    """Refuse what is no plane or stack, and lengths without a pixel size; return the fit's axes."""
    if any(header.get_size(axis) > 1 for axis in "TCS"):
        raise RefusedError("beads-axes", name=header.name, axes=header.axes)
    axes = "ZYX" if "Z" in get_stacked_axes(header) else "YX"
    if not 0 <= bead_diameter < np.inf:
        raise RefusedError("beads-diameter", diameter=bead_diameter)
    optics = psf_source.optics
    if bead_diameter and None in optics.get_pixel_sizes(header, axes):
        raise RefusedError("beads-scale", name=header.name)
    if optics.microscope != "none" or optics.na is not None or optics.wavelength is not None:
        raise_if_refused(
            psf_source.refuse_source(header, None) or psf_source.refuse_axes(header, None, axes)
        )
    return axes


def _compute_psf(header: ImageHeader, psf_source: PsfSource, axes: str) -> Float32Array | None:
    """Compute the PSF of the named microscope; None without one."""
    if psf_source.optics.microscope == "none":
        return None
    load_torch()
    with use_default_torch_state():
        kernel, _ = psf_source.make_kernel(header, None, axes)
    computed: Float32Array = kernel.numpy()
    return computed


@use_default_style
def plot_psf(report: PsfReport) -> bytes:
    """Plot sections of the PSF, and profiles beside the computed PSF; return a PNG file's bytes.

    PSFs that change over the field have a panel with the width in each of its parts.
    """
    is_volume = report.psf.ndim == 3
    panel_count = 2 + is_volume + (report.field is not None)
    figure = make_figure(3.3 * panel_count, 3.2)
    panels = list(figure.subplots(1, panel_count))
    if report.field is not None:
        widths = report.field.lateral_widths
        title = f"FWHM over the field, {widths.min():.2f} to {widths.max():.2f} pixels"
        draw_titled_image(panels.pop(), widths, title, (float(widths.min()), float(widths.max())))
    middle = [count // 2 for count in report.psf.shape]
    plane = report.psf[middle[0]] if is_volume else report.psf
    limits = (0.0, float(plane.max()) ** 0.5)
    draw_titled_image(panels[0], np.sqrt(plane), "XY through the middle, square root", limits)
    if is_volume:
        section = np.sqrt(report.psf[:, middle[1]])
        draw_titled_image(panels[1], section, "XZ through the middle, square root", limits)
        z_size, x_size = report.pixel_nm[0], report.pixel_nm[-1]
        panels[1].set_aspect(z_size / x_size if z_size and x_size else 1)
    _plot_profiles(panels[-1], report)
    return render_figure(figure)


def _plot_profiles(ax: Axes, report: PsfReport) -> None:
    """Plot the profiles through the middle along each axis; computed ones are dashed."""
    colours = dict(zip("ZYX", ("#1f77b4", "#d95f02", "#4d9221"), strict=True))
    for profile in report.list_profiles():
        kind, style = ("measured", "-") if profile.is_measured else ("computed", "--")
        label, colour = f"{profile.axis}, {kind}", colours[profile.axis]
        ax.plot(profile.positions, profile.values, style, color=colour, linewidth=1, label=label)
    ax.set(xlabel="nm" if report.has_pixel_sizes else "Pixels", ylabel="Share of the peak")
    ax.set_xlim(-report.profile_reach, report.profile_reach)
    ax.locator_params(axis="x", nbins=5)
    format_small_axes(ax)
