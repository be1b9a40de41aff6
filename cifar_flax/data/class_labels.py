"""Numbers the labels of a set of images as the network that is evaluated on it does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput, printable, warn

CIFAR = {("airplane", "truck"), ("apple", "worm")}  # first and last class of CIFAR-10 and CIFAR-100


def labels_of_network(
    labels: np.ndarray, class_names: Sequence[str], wanted: Sequence[str], name: str | Path, is_first: bool = True
) -> np.ndarray:
    """The labels that a network has for the same class names.

    A set without class names has the numbers of its classes as names. If the network's classes have names, such
    numbers are the network's labels, with a warning unless they are those of CIFAR in their order.

    Args:
        labels: [N] int32, of the set.
        class_names: of the set, one for each label.
        wanted: the class names of the network, one for each label.
        name: of the set, for messages.
        is_first: whether to warn.

    Returns:
        [N] int32.

    Raises:
        BadInput: there are images of a class that the network does not have.
    """
    class_names, wanted = _without_zeros(class_names), _without_zeros(wanted)
    if _are_numbers(class_names) and not _are_numbers(wanted):
        _check_numbers(labels, wanted, name, is_first)
        return labels
    label_of = {class_name: label for label, class_name in enumerate(wanted)}
    numbers = np.array([label_of.get(class_name, -1) for class_name in class_names], np.int32)
    unknown = [class_names[label] for label in np.unique(labels) if numbers[label] < 0]
    if unknown:
        known = f"the classes of the run are {listed(wanted)}"
        raise BadInput(
            printable(f"--on: {name} has images of {listed(unknown)}, but {known}; leave out its other classes")
        )
    return numbers[labels]


def numbered(labels: np.ndarray) -> list[str]:
    """The class names of a set without any."""
    return [str(label) for label in range(labels.max() + 1)]


def _are_numbers(class_names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in class_names)


def _without_zeros(class_names: Sequence[str]) -> Sequence[str]:
    """Class names that are numbers without leading zeros, with which folders are named to sort well; others as is."""
    short = [name.lstrip("0") or "0" for name in class_names]
    return short if _are_numbers(class_names) and len(set(short)) == len(short) else class_names


def _check_numbers(labels: np.ndarray, wanted: Sequence[str], name: str | Path, is_first: bool) -> None:
    """Raises BadInput if the network has no such classes. Warns if it has more, or if they may be others."""
    last = labels.max()
    if last >= len(wanted):
        problem = f"has the label {last}, but the classes of the run are 0 to {len(wanted) - 1}"
        raise BadInput(printable(f"--on: {name} {problem}; name a set of its classes"))
    are_all = last == len(wanted) - 1
    is_cifar = (wanted[0], wanted[-1]) in CIFAR and list(wanted) == sorted(wanted)
    if is_first and not (are_all and is_cifar):
        more = "" if are_all else f"; the run has {len(wanted)} classes"
        warn(f"--on: {name} has the labels 0 to {last}, which count as {listed(wanted[: last + 1])}{more}")
