"""List the papers to cite for a result, according to the methods that its run used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.tasks.noise_models.camera_maps import CAMERA_MAPS
from napari_dip.tasks.noise_models.registry import get_noise_model
from napari_dip.tasks.priors.registry import get_prior_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.tasks.priors.prior_spec import PriorSpec

    Report = Mapping[str, Any]

#: Authors, title, venue, year, and DOI or arXiv number, as in the docstrings of the methods.
PAPERS = {
    "deep image prior": "Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018, "
    "doi:10.1109/CVPR.2018.00984.",
    "guide": "Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, "
    "doi:10.1007/s11263-020-01303-4.",
    "noise2void": "Krull, Buchholz, Jug, Noise2Void: learning denoising from single noisy images, "
    "CVPR 2019, doi:10.1109/CVPR.2019.00223.",
    "posterior mean": "Laine, Karras, Lehtinen, Aila, High-quality self-supervised deep image "
    "denoising, NeurIPS 2019, arXiv:1901.10277.",
    "r2r": "Pang, Zheng, Quan, Ji, Recorrupted-to-recorrupted: unsupervised deep learning "
    "for image denoising, CVPR 2021, doi:10.1109/CVPR46437.2021.00208.",
    "bm3d": "Dabov, Foi, Katkovnik, Egiazarian, Image denoising by sparse 3-D "
    "transform-domain collaborative filtering, IEEE TIP 16(8), 2007, doi:10.1109/TIP.2007.901238.",
    "colour camera": "Lebrun, Colom, Morel, Multiscale image blind denoising, IEEE TIP 24(10), "
    "2015, doi:10.1109/TIP.2015.2439041.",
    "noise estimation": "Foi, Trimeche, Katkovnik, Egiazarian, Practical Poissonian-Gaussian noise "
    "modeling and fitting for single-image raw-data, IEEE TIP 17(10), 2008, "
    "doi:10.1109/TIP.2008.2001399.",
    "sure": "Stein, Estimation of the mean of a multivariate normal distribution, Annals "
    "of Statistics 9(6), 1981, doi:10.1214/aos/1176345632.",
    "total variation": "Rudin, Osher, Fatemi, Nonlinear total variation based noise removal "
    "algorithms, Physica D 60, 1992, doi:10.1016/0167-2789(92)90242-F.",
    "anisotropic total variation": "Esedoglu, Osher, Decomposition of images by the anisotropic "
    "Rudin-Osher-Fatemi model, Communications on Pure and Applied Mathematics 57(12), 2004, "
    "doi:10.1002/cpa.20045.",
    "lanczos": "Duchon, Lanczos filtering in one and two dimensions, J. Appl. Meteorol. 18, 1979, "
    "doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.",
    "iterative backprojection": "Irani, Peleg, Improving resolution by image registration, CVGIP "
    "53, 1991, doi:10.1016/1049-9652(91)90045-L.",
    "zssr": 'Shocher, Cohen, Irani, "Zero-shot" super-resolution using deep internal '
    "learning, CVPR 2018, arXiv:1712.06087.",
    "recompression": "Nosratinia, Enhancement of JPEG-compressed images by re-application of "
    "JPEG, Journal of VLSI Signal Processing 27, 2001, doi:10.1023/A:1008167430544.",
    "jpeg traces": "Fan, de Queiroz, Identification of bitmap compression history: JPEG detection "
    "and quantizer estimation, IEEE TIP 12(2), 2003, doi:10.1109/TIP.2002.807361.",
    "impulses": "Garnett, Huegerich, Chui, He, A universal noise removal algorithm with an "
    "impulse detector, IEEE TIP 14(11), 2005, doi:10.1109/TIP.2005.857261.",
    "stripes": "Bouali, Ladjal, Toward optimal destriping of MODIS data using a unidirectional "
    "variational model, IEEE TGRS 49(8), 2011, doi:10.1109/TGRS.2011.2119399.",
    "speckle": "Arsenault, April, Properties of speckle integrated with a finite aperture and "
    "logarithmically transformed, JOSA 66(11), 1976, doi:10.1364/JOSA.66.001160.",
    "repeated exposure": "EMVA Standard 1288, Release 4.0, 2021, section 6.",
    "camera maps": "Huang, Hartwich, Rivera-Molina, et al., Video-rate nanoscopy using sCMOS "
    "camera-specific single-molecule localization algorithms, Nature Methods 10, 2013, "
    "doi:10.1038/nmeth.2488.",
    "registration": "Guizar-Sicairos, Thurman, Fienup, Efficient subpixel image registration "
    "algorithms, Optics Letters 33(2), 2008, doi:10.1364/OL.33.000156.",
    "temporal smoothing": "Geman, McClure, Statistical methods for tomographic image "
    "reconstruction, Bulletin of the International Statistical Institute 52(4), 1987.",
    "bp-dip": "Zukerman, Tirer, Giryes, BP-DIP: a backprojection based deep image prior, "
    "EUSIPCO 2020, arXiv:2003.05417.",
    "Richardson": "Richardson, Bayesian-based iterative method of image restoration, JOSA 62, "
    "1972, doi:10.1364/JOSA.62.000055.",
    "Lucy": "Lucy, An iterative technique for the rectification of observed distributions, "
    "Astron. J. 79, 1974, doi:10.1086/111605.",
    "hessian penalty": "Lefkimmiatis, Bourquard, Unser, Hessian-based norm regularization for "
    "image restoration with biomedical applications, IEEE Trans. Image Processing 21, 2012, "
    "doi:10.1109/TIP.2011.2168232.",
    "psf model": "Gibson, Lanni, Experimental test of an analytical model of aberration in an "
    "oil-immersion objective lens used in three-dimensional light microscopy, JOSA A 9(1), 1992, "
    "doi:10.1364/JOSAA.9.000154.",
    "confocal": "Wilson, Sheppard, Theory and practice of scanning optical microscopy, 1984.",
    "blur likelihood": "Levin, Weiss, Durand, Freeman, Understanding and evaluating blind "
    "deconvolution algorithms, CVPR 2009, doi:10.1109/CVPR.2009.5206815.",
    "l0 gradient": "Xu, Zheng, Jia, Unnatural L0 sparse representation for natural image "
    "deblurring, CVPR 2013, doi:10.1109/CVPR.2013.147.",
    "selfdeblur": "Ren, Zhang, Wang, Hu, Zuo, Neural blind deconvolution using deep priors, "
    "CVPR 2020, doi:10.1109/CVPR42600.2020.00340.",
    "feature inversion": "Mahendran, Vedaldi, Understanding deep image representations by "
    "inverting them, CVPR 2015, doi:10.1109/CVPR.2015.7299155.",
}
#: Papers that only experiments on the prior cite.
EXPERIMENT_PAPERS = {
    "spectral bias": "Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of "
    "the deep image prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7.",
    "blurriness": "Crete, Dolmiere, Ladret, Nicolas, The blur effect: perception and estimation "
    "with a new no-reference perceptual blur metric, SPIE 6492, 2007, doi:10.1117/12.702790.",
    "sharpness": "Bahrami, Kot, A fast approach for no-reference image sharpness assessment based "
    "on maximum local variation, IEEE Signal Processing Letters 21(6), 2014, pages 751 to 755.",
    "deep decoder": "Heckel, Hand, Deep decoder: concise image representations from untrained "
    "non-convolutional networks, ICLR 2019, arXiv:1810.03982.",
}
#: Topics of papers that the sentences of the methods section do not always cite. If none cites a
#: paper, its topic is named at the end of the section.
TOPICS_OF_UNCITED_PAPERS = {
    "sure": "the measure of how much noise a picture repeats, by which the fit is stopped",
    "total variation": "the penalty on total variation",
    "anisotropic total variation": "the penalty on total variation along rows and columns",
    "lanczos": "the filter between coarse and fine pixels",
    "iterative backprojection": "the addition of what an enlarged picture leaves unexplained",
    "camera maps": "the correction and weighing of pixels by maps of the camera",
    "registration": "the alignment of the pictures",
    "temporal smoothing": "the penalty on changes from frame to frame",
    "bp-dip": "the distance to the measurement, with the blur partly undone",
    "hessian penalty": "the penalty on bends of the first deconvolution",
    "psf model": "the computed point spread function",
    "confocal": "that of a confocal microscope",
    "blur likelihood": "the point spread function under which the image's spectrum is the "
    "likeliest",
    "l0 gradient": "the first estimate of the point spread function, from sharp edges",
    "selfdeblur": "the network and the point spread function fitted together",
    "feature inversion": "the restoration of an image from activations",
}


def list_references(report: Report) -> tuple[str, ...]:
    """Return the papers behind the methods that a run used, in the order of `PAPERS`.

    Parameters
    ----------
    report : mapping
        Report of the run, as in `Restoration.report`.
    """
    return tuple(PAPERS[key] for key in list_paper_keys(report))


def list_paper_keys(report: Report) -> tuple[str, ...]:
    """Return the keys in `PAPERS` of the papers to cite, in their order there."""
    return tuple(
        key for key in PAPERS if _CITATION_RULES.get(key, _is_cited_by_method(key))(report)
    )


def get_report_prior_spec(report: Report) -> PriorSpec:
    """Return the row of a run's prior."""
    return get_prior_spec(report["prior"]["chosen"])


def uses_refinement(report: Report) -> bool:
    """Return whether a run ended with BM3D-style refinement."""
    return bool(report.get("fit", {}).get("refined"))


def get_task_setting(report: Report, name: str) -> Any:
    """Return the value of a setting of a run's task; None if the task has no such setting."""
    from napari_dip.pipeline.recipe import recipe_from_dict

    return getattr(recipe_from_dict(report["recipe"]).task, name, None)


def _is_cited_by_method(paper: str) -> Callable[[Report], bool]:
    """Return a rule that holds if the prior or the noise model of a run names the paper."""
    return lambda report: (
        paper
        in get_report_prior_spec(report).papers + get_noise_model(report["noise"]["model"]).papers
    )


def _is_task(*names: str) -> Callable[[Report], bool]:
    return lambda report: report["task"] in names


def _uses_measured_noise(report: Report) -> bool:
    """Return whether gain or read noise were measured on the image by a variance model."""
    has_user_noise = None not in (
        get_task_setting(report, "gain"),
        get_task_setting(report, "read_noise"),
    )
    has_detector_noise = get_noise_model(report["noise"]["model"]).is_detector
    if report["task"] == "invert-features":
        return False
    return has_detector_noise and not has_user_noise and not _uses_repeated_exposure(report)


def _uses_repeated_exposure(report: Report) -> bool:
    return "repeated_exposure" in report.get("fit", {}).get("inputs", ())


def _uses_camera_maps(report: Report) -> bool:
    inputs = report.get("fit", {}).get("inputs", ())
    return any(camera_map.name in inputs for camera_map in CAMERA_MAPS)


def _uses_sure_term(report: Report) -> bool:
    """Return whether a SURE term was used, as for random input with correlated noise."""
    is_correlated = any(side > 1 for side in report["noise"]["blind_spot_block"])
    return (
        get_report_prior_spec(report).network_input.is_random
        and is_correlated
        and report["task"] in ("denoise", "guide")
        and not _uses_repeated_exposure(report)
    )


def _count_movie_frames(report: Report) -> int:
    """Return the number of separately restored frames of a movie; 0 if there are none."""
    if "T" in report.get("fit", {}).get("axes", "T") or "T" not in report["axes"]:
        return 0
    return int(report["shape"][report["axes"].index("T")])


def _uses_temporal_smoothing(report: Report) -> bool:
    return _count_movie_frames(report) > 1 and bool(get_task_setting(report, "temporal_smoothing"))


def _uses_registration(report: Report) -> bool:
    """Return whether images were registered: the frames of a movie, or a guide."""
    if get_task_setting(report, "align"):
        return True
    uses_neighbours = (
        get_task_setting(report, "neighbouring_frames")
        and get_report_prior_spec(report).network_input.has_neighbour_frames
    )
    return _count_movie_frames(report) > 1 and bool(
        uses_neighbours or get_task_setting(report, "temporal_smoothing")
    )


def _uses_richardson_lucy(report: Report) -> bool:
    if report["task"] == "deblur":
        return bool(get_task_setting(report, "initial_estimate") != "none")
    return bool(report["task"] == "blind-deblur")


def _is_volume_fit(report: Report) -> bool:
    return len(report.get("fit", {}).get("axes", "")) > 2


def _uses_iterative_backprojection(report: Report) -> bool:
    """Return whether iterative backprojection was applied to an upscaled image."""
    is_upscaled = report["task"] == "super-resolve" and (
        not get_report_prior_spec(report).network_input.is_random
        or get_task_setting(report, "initial_estimate") != "none"
    )
    return is_upscaled or _uses_half_resolution(report)


def _uses_half_resolution(report: Report) -> bool:
    return bool(report.get("fit", {}).get("half_resolution"))


def _uses_lanczos(report: Report) -> bool:
    return _uses_half_resolution(report) or (
        report["task"] == "super-resolve" and get_task_setting(report, "model") == "lanczos"
    )


def _uses_smoothing(kind: str) -> Callable[[Report], bool]:
    return lambda report: (
        bool(get_task_setting(report, "smoothing"))
        and get_task_setting(report, "smoothing_kind") == kind
    )


def _uses_computed_psf(*models: str) -> Callable[[Report], bool]:
    return lambda report: report["task"] == "deblur" and get_task_setting(report, "model") in models


def _uses_blur_model(*, free: bool) -> Callable[[Report], bool]:
    return lambda report: (
        report["task"] == "blind-deblur" and (get_task_setting(report, "blur") == "free") is free
    )


#: When a run cites a paper, from its report. Papers without a rule are those of priors and noise
#: models.
_CITATION_RULES: Mapping[str, Callable[[Report], bool]] = {
    "deep image prior": lambda _: True,
    "bm3d": uses_refinement,
    "colour camera": lambda report: bool(report["noise"].get("camera")) and uses_refinement(report),
    "noise estimation": _uses_measured_noise,
    "sure": _uses_sure_term,
    "total variation": lambda report: (
        _uses_smoothing("isotropic")(report) or _is_cited_by_method("total variation")(report)
    ),
    "anisotropic total variation": _uses_smoothing("anisotropic"),
    "lanczos": _uses_lanczos,
    "iterative backprojection": _uses_iterative_backprojection,
    "repeated exposure": _uses_repeated_exposure,
    "camera maps": _uses_camera_maps,
    "registration": _uses_registration,
    "temporal smoothing": _uses_temporal_smoothing,
    "bp-dip": _is_task("deblur", "blind-deblur"),
    "Richardson": _uses_richardson_lucy,
    "Lucy": _uses_richardson_lucy,
    "hessian penalty": lambda report: _uses_richardson_lucy(report) and _is_volume_fit(report),
    "psf model": _uses_computed_psf("widefield", "confocal"),
    "confocal": _uses_computed_psf("confocal"),
    "blur likelihood": _uses_blur_model(free=False),
    "l0 gradient": _uses_blur_model(free=True),
    "selfdeblur": _uses_blur_model(free=True),
    "feature inversion": _is_task("invert-features"),
}
