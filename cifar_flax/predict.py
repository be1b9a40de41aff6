"""`python -m cifar_flax.predict --workdir runs/cnn IMAGE...`: the three most probable classes of each image."""

import contextlib
import json
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.inference import load_run

NUM_CLASSES_SHOWN = 3
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow decodes some others by running programs
MAX_BYTES = 2**29  # of a file
MAX_PIXELS = 60_000_000  # takes up to 0.9 GiB and two seconds; Pillow's own limit is 1.5 times as high


def read_image(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image of any size as the network takes it: [H, W, C] uint8.

    The image is rotated upright (EXIF), composited on white if it is transparent, resized to just cover H x W, and
    cropped to its center. An image that already has this size is not changed. Of an animation, the first frame counts.

    Raises:
        BadInput: the file is missing, is not an image, is truncated, or is too large to be decoded safely.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise BadInput(f"{path}: the run's images have {channels} channels, and only 1 or 3 can be read from a file")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # a pipe would block
            raise ValueError(f"not a regular file of at most {MAX_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about images that it can read
            with _silent_stderr(), Image.open(path, formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS}")
                image = _flat(opened, "L" if channels == 1 else "RGB")
        # averages when shrinking, so that an image that was enlarged pixel by pixel is restored exactly
        shrinks = image.width >= width and image.height >= height
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        raise BadInput(f"{path}: not a readable image ({in_one_line(error)})") from error
    return np.asarray(fitted, np.uint8).reshape(image_shape)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides what libtiff writes to the stderr of the process, which Python cannot catch."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _flat(opened: Image.Image, mode: str) -> Image.Image:
    """Rotates upright, removes transparency and converts to 8 bits, with as few copies as possible."""
    ImageOps.exif_transpose(opened, in_place=True)
    image = _eight_bit(opened)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts 16-bit gray to 8-bit gray by scaling; Pillow's own conversion clips."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8))
    return image


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    arguments = parser.parse_args(argv)
    classifier = load_run(arguments.workdir)
    images = np.stack([read_image(path, classifier.image_shape) for path in arguments.images])
    names, results = classifier.class_names, []
    for path, probabilities in zip(arguments.images, classifier(images), strict=True):
        best = probabilities.argsort()[::-1][:NUM_CLASSES_SHOWN]
        results.append((str(path), {names[k]: float(probabilities[k]) for k in best}))
    if arguments.json:
        print(json.dumps([{"image": path, "classes": classes} for path, classes in results], indent=2))
        return
    for path, classes in results:
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in classes.items()))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
