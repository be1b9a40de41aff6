"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, 2019), in the order of the paper."""

from collections.abc import Iterable

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # published too, but not part of the mean
SEVERITIES = (1, 2, 3, 4, 5)
NAMES_IN_TFDS = {"frosted_glass_blur": "glass_blur", "elastic": "elastic_transform"}


def in_order(names: Iterable[str]) -> list[str]:
    """Corruptions in the order of the paper, others behind them by name."""
    known = (*BENCHMARK, *EXTRA)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
