"""`python -m cifar_flax.predict --workdir runs/cnn IMAGE...`: the three most probable classes of each image.

A folder stands for all pictures in it and in its subfolders. Each answer is written as soon as it is known. A picture
that cannot be read is reported on stderr; the others are classified, and the exit code is 2.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from tqdm.contrib import DummyTqdmFile

from cifar_flax.cli.bad_items import BadItems
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.pictures import check_channels, list_pictures, read_image
from cifar_flax.data.progress import BAR_DELAY, ProgressBar
from cifar_flax.errors import printable
from cifar_flax.inference import Classifier, load_run

NUM_CLASSES_SHOWN = 3

Results = Iterable[tuple[str, np.ndarray]]  # path and probabilities [K] of each picture


def predict(
    classifier: Classifier, paths: Sequence[str], bad_items: BadItems, bar: ProgressBar
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path and the probabilities [K] of each readable picture, in the order of the paths.

    Only the resized images of one batch are in memory at a time.
    """
    size = classifier.config.eval_batch_size
    for start in range(0, len(paths), size):
        images = {}
        for index, path in enumerate(paths[start : start + size], start):
            with bad_items.reported():
                images[index] = read_image(path, classifier.image_shape)
            bar.update()
        if images:
            for index, probabilities in zip(images, classifier(np.stack(list(images.values()))), strict=True):
                yield paths[index], probabilities


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[ProgressBar]:
    """A bar on stderr if that is a terminal, unless the answers appear on a terminal and show the progress themselves.

    Other lines on stderr are printed above the bar.
    """
    stderr = sys.stderr
    hidden = sys.stdout.isatty() or not stderr.isatty()
    bar = ProgressBar(total=total, unit=" pictures", leave=False, delay=BAR_DELAY, disable=hidden, file=stderr)
    with bar, contextlib.redirect_stderr(stderr if hidden else DummyTqdmFile(stderr)):
        yield bar


def print_text(classifier: Classifier, results: Results, count: int | None) -> None:
    """A line per picture. `count` is the number of classes; None stands for all."""
    for path, probabilities in results:
        classes = classifier.most_probable(probabilities, count).items()
        say(f"{printable(path)}: {', '.join(f'{name} {probability:.1%}' for name, probability in classes)}")


def print_json(classifier: Classifier, results: Results, count: int | None) -> None:
    """One JSON list. It is valid even if there are no results."""
    before = "["
    for path, probabilities in results:
        entry = {"image": path, "classes": classifier.most_probable(probabilities, count)}
        say(before)
        before = textwrap.indent(json.dumps(entry, indent=2), "  ") + ","
    say(before.removesuffix(","))
    say("]")


def print_csv(classifier: Classifier, results: Results, count: int | None) -> None:
    """A header and a row per picture: names and probabilities of the `count` best classes, or a column per class."""
    names = classifier.class_names
    pairs = [(f"class_{place}", f"probability_{place}") for place in range(1, min(count or 0, len(names)) + 1)]
    say(csv_row(["image", *(chain(*pairs) if count else names)]))
    for path, probabilities in results:
        best = classifier.most_probable(probabilities, count)
        say(csv_row([path, *(chain(*best.items()) if count else map(float, probabilities))]))


def csv_row(values: Iterable[object]) -> str:
    row = io.StringIO()
    csv.writer(row).writerow(values)  # with its default line end, so that names with line breaks are quoted
    return row.getvalue().removesuffix("\r\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m cifar_flax.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--eval_batch_size", type=int, metavar="N", help="images per step; default: as in the run")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_const", dest="write", const=print_json, help="print one JSON list")
    formats.add_argument(
        "--csv", action="store_const", dest="write", const=print_csv, help="print a table with a header"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="print all classes instead of the three most probable"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    parser.set_defaults(write=print_text)
    return parser.parse_args(argv)


def command(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    classifier, paths = load_run(arguments.workdir, arguments.eval_batch_size), []
    check_channels(classifier.image_shape[-1])
    with BadItems() as bad_items:
        for path in arguments.images:
            with bad_items.reported():
                paths += list_pictures(path)
        with progress_bar(len(paths)) as bar:
            results = predict(classifier, paths, bad_items, bar)
            arguments.write(classifier, results, None if arguments.probabilities else NUM_CLASSES_SHOWN)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
