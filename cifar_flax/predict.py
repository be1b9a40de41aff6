"""`python -m cifar_flax.predict --workdir runs/cnn IMAGE...`: the three most probable classes of each image.

A folder stands for all pictures in it and in its subfolders. A picture that cannot be read is reported on stderr; the
others are classified, and the exit code is 2.
"""

import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from cifar_flax.cli.bad_items import BadItems
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.pictures import check_channels, list_pictures, read_image
from cifar_flax.errors import printable
from cifar_flax.inference import Classifier, load_run

NUM_CLASSES_SHOWN = 3


def predict(
    classifier: Classifier, paths: Sequence[str], bad_items: BadItems
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the path and the probabilities of the most probable classes of each readable picture, in their order.

    Only the resized images of one batch are in memory at a time.
    """
    names, size = classifier.class_names, classifier.config.eval_batch_size
    for start in range(0, len(paths), size):
        images = {}
        for index, path in enumerate(paths[start : start + size], start):
            with bad_items.reported():
                images[index] = read_image(path, classifier.image_shape)
        if images:
            for index, probabilities in zip(images, classifier(np.stack(list(images.values()))), strict=True):
                best = probabilities.argsort()[::-1][:NUM_CLASSES_SHOWN]
                yield paths[index], {names[k]: float(probabilities[k]) for k in best}


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--eval_batch_size", type=int, metavar="N", help="images per step; default: as in the run")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    arguments = parser.parse_args(argv)
    classifier, paths = load_run(arguments.workdir, arguments.eval_batch_size), []
    check_channels(classifier.image_shape[-1])
    with BadItems() as bad_items:
        for path in arguments.images:
            with bad_items.reported():
                paths += list_pictures(path)
        results = predict(classifier, paths, bad_items)
        if arguments.json:
            say(json.dumps([{"image": path, "classes": classes} for path, classes in results], indent=2))
            return
        for path, classes in results:
            shown = ", ".join(f"{name} {probability:.1%}" for name, probability in classes.items())
            say(f"{printable(path)}: {shown}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
