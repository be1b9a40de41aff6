"""`python -m cifar_flax.predict --workdir runs/cnn IMAGE...`: the three most probable classes of pictures."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cifar_flax.commandline import Parser, exit_code
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run

TOP = 3


def read_image(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A picture of any size as the network sees it: [H, W, C] uint8.

    It is turned upright (EXIF), laid on white where it is transparent, scaled so that it just covers H x W, and its
    middle is cut out. A picture of that size is left as it is. Of an animation, the first frame counts.

    Raises:
        BadInput: no file, no picture, a truncated one, or one too large to be decoded safely.
    """
    height, width, channels = image_shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(_eight_bit(opened))
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                image = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise almost anything at a damaged file
        raise BadInput(f"{path}: no picture that can be read ({type(error).__name__}: {error})") from error
    # averages where it shrinks, so that an image that was enlarged pixel by pixel comes back exactly
    shrinks = image.width >= width and image.height >= height
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return np.asarray(fitted, np.uint8).reshape(image_shape)


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
