"""`python -m cifar_flax.predict --workdir runs/cnn IMAGE...`: the three most probable classes of pictures."""

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

TOP = 3
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some others Pillow would hand to programs to be run
LARGEST = 2**29  # bytes of a file
MOST_PIXELS = 60_000_000  # they take up to 0.9 GiB and two seconds; Pillow's own bound is half as high again


def read_image(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A picture of any size as the network sees it: [H, W, C] uint8.

    It is turned upright (EXIF), laid on white where it is transparent, scaled so that it just covers H x W, and its
    middle is cut out. A picture of that size is left as it is. Of an animation, the first frame counts.

    Raises:
        BadInput: no file, no picture, a truncated one, or one too large to be decoded safely.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise BadInput(f"{path}: the run's images have {channels} channels, and a picture has 1 or 3")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:  # a pipe would be waited for
            raise ValueError(f"it is no file of at most {LARGEST} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow has to say of pictures that it can read
            with _silent_stderr(), Image.open(path, formats=FORMATS) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels, more than {MOST_PIXELS}")
                image = _flat(opened, "L" if channels == 1 else "RGB")
        # averages where it shrinks, so that an image that was enlarged pixel by pixel comes back exactly
        shrinks = image.width >= width and image.height >= height
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise almost anything at a damaged file
        raise BadInput(f"{path}: no picture that can be read ({in_one_line(error)})") from error
    return np.asarray(fitted, np.uint8).reshape(image_shape)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Libtiff writes what it thinks of a file to the process' stderr, past Python and past any exception."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _flat(opened: Image.Image, mode: str) -> Image.Image:
    """Upright, without transparency and of 8 bits, in as few copies as may be: a picture can be large."""
    ImageOps.exif_transpose(opened, in_place=True)
    image = _eight_bit(opened)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion would clip instead of scale."""
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
    names, found = classifier.class_names, []
    for path, probabilities in zip(arguments.images, classifier(images), strict=True):
        best = probabilities.argsort()[::-1][:TOP]
        found.append((str(path), {names[k]: float(probabilities[k]) for k in best}))
    if arguments.json:
        print(json.dumps([{"image": path, "classes": classes} for path, classes in found], indent=2))
        return
    for path, classes in found:
        print(f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in classes.items()))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
