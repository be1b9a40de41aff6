"""The mean and the variance of the pixels of a training set."""

import numpy as np

COUNTED_AT_ONCE = 1_000  # images


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the variance of each channel of images [N, H, W, C] uint8 divided by 255, both [C] float32.

    The values are counted, so both are rounded only once, in any order of the images. The images are read in pieces.
    """
    channels = range(images.shape[-1])
    counts = np.zeros((len(channels), 256), np.int64)
    for start in range(0, len(images), COUNTED_AT_ONCE):
        part = images[start : start + COUNTED_AT_ONCE]
        for channel in channels:
            counts[channel] += np.bincount(part[..., channel].reshape(-1), minlength=256)
    values, fractions = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = fractions @ values
    variance = (fractions * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), variance.astype(np.float32)
