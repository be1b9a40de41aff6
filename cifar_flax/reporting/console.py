"""What a run prints: a first screen, progress within an epoch, a line per epoch, the result."""

import io
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table
from ml_collections import ConfigDict

from cifar_flax.cli.streams import discard_stdout
from cifar_flax.data.dataset import Dataset
from cifar_flax.data.progress import ProgressBar
from cifar_flax.errors import in_one_line, warn
from cifar_flax.interruption import interrupt
from cifar_flax.reporting import listener
from cifar_flax.reporting.formatting import describe_seeds, mean_std_percent, percent
from cifar_flax.training.state import count_parameters
from cifar_flax.workdir.epochs import validated
from cifar_flax.workdir.identity import IMPORTED
from cifar_flax.workdir.tensorboard import can_write_events

LOG_EVERY = 10.0  # seconds between progress lines if the output is not a terminal


def say(text: str) -> None:
    """Prints what a run says, unless it reports to a listener."""
    if listener.current() is None:
        show(text)


def show(text: str) -> None:
    """Prints on stdout. If stdout cannot be written, the run continues without it.

    If the reader of its pipe went away, as in `| head`, the run is saved and interrupted instead.

    Raises:
        BrokenPipeError: the reader went away while no run was in progress.
    """
    with optional_stdout():
        print(text, flush=True)


@contextmanager
def optional_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
        if not interrupt(signal.SIGPIPE):
            raise
    except (OSError, ValueError) as error:  # ValueError: Python has closed it
        discard_stdout()
        warn(f"stdout cannot be written ({in_one_line(error)}); the run continues without it")


def model_table(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """A table of the layers: output shape for one image, number of parameters and of statistics."""
    outputs: dict[str, tuple[int, ...]] = {}

    def note_output(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_function(*args, **kwargs)
        if len(context.module.path) == 1 and context.method_name == "__call__":
            outputs[context.module.path[0]] = output.shape[1:]
        return output

    with nn.intercept_methods(note_output):
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("layer")
    table.add_column("output", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("statistics", justify="right")
    for layer, shape in outputs.items():
        counts = (count_parameters(tree.get(layer, {})) for tree in (params, batch_stats))
        table.add_row(layer, " x ".join(map(str, shape)), *(f"{count:,}" if count else "" for count in counts))
    table.add_section()
    table.add_row("total", "", f"{count_parameters(params):,}", f"{count_parameters(batch_stats):,}")
    return as_text(table)


def seeds_table(runs: list[dict[str, Any]]) -> str:
    """A table of the runs of several seeds, given as the contents of run.json, with means and deviations below."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    columns = {"validation accuracy": "best_validation_accuracy", "test accuracy": "test_accuracy"}
    if all("tta_test_accuracy" in run for run in runs):
        columns["with test-time augmentation"] = "tta_test_accuracy"
    for title in ("seed", "best epoch", *columns, "training"):
        table.add_column(title, justify="right")
    for run in runs:
        accuracies = (percent(run[field]) for field in columns.values())
        table.add_row(f"{run['seed']}", f"{run['best_epoch']}", *accuracies, f"{run['train_seconds']:,.0f} s")
    means = ", ".join(f"{title} {mean_std_percent([run[field] for run in runs])}" for title, field in columns.items())
    return f"{as_text(table)}\n\n{runs[0]['experiment']}, {describe_seeds([run['seed'] for run in runs])}: {means}"


def as_text(table: rich.table.Table) -> str:
    """The table in lines of at most 80 characters, without trailing spaces."""
    text = io.StringIO()  # rich's own capture writes to stdout too, which may be full
    screen = rich.console.Console(
        file=text, width=80, force_terminal=False, force_jupyter=False, color_system=None,
        markup=False, emoji=False,  # names of classes and files are no markup
    )  # fmt: skip
    screen.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def first_screen(
    config: ConfigDict, dataset: Dataset, devices: list[jax.Device], workdir: Path, start: dict[str, Any] | None = None
) -> None:
    """Says what is trained on what, and where the results go. `start` is the field `init_from` of run.json."""
    counts = f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test"
    shape = "x".join(map(str, dataset.image_shape))
    augmented = "" if config.augment == "none" else f", {config.augment}"
    say(f"experiment  {config.experiment}: {config.model}{augmented}, seed {config.seed}")
    say(f"data        {config.dataset}: {counts} images, {shape}, {dataset.num_classes} classes")
    if start:
        frozen = f", frozen for {config.frozen_epochs:g} epochs" if config.frozen_epochs else ""
        say(f"start       {start['path']}: {_layers(start['taken'])} taken{frozen}")
        say(f"            {_layers(start['new'])} {'begin' if len(start['new']) > 1 else 'begins'} anew")
    say(
        f"training    {config.num_epochs:g} epochs, batch {config.batch_size}, {config.optimizer} "
        f"{config.learning_rate:g}, {config.schedule} schedule"
    )
    streamed = ", images streamed from the host" if config.stream else ""
    say(f"device      {len(devices)} x {devices[0].device_kind}, convolutions by {config.lowering}{streamed}")
    watch = f"watch it    tensorboard --logdir {relative(workdir)}\n" if can_write_events() else ""
    say(f"workdir     {relative(workdir)}\n{watch}")


def relative(path: Path) -> Path:
    """The path as a command in the current folder takes it: relative if it is inside that folder."""
    with suppress(OSError, ValueError):  # the current folder was removed; the path is not inside it
        return path.relative_to(Path.cwd())
    return path


def _layers(sizes: dict[str, int]) -> str:
    """`conv1, conv2 (2,288 values)`."""
    return f"{', '.join(sizes)} ({sum(sizes.values()):,} values)" if sizes else "nothing"


def shows_bars(stream: TextIO | None) -> bool:
    """Whether a carriage return on the stream replaces the line: on a terminal, and in the output of a notebook."""
    return stream is not None and (stream.isatty() or type(stream).__module__ == "ipykernel.iostream")


class EpochProgress:
    """The progress of one epoch: images, running loss and accuracy, images/s, time left.

    A bar on a terminal and in a notebook, removed at the end of the epoch; otherwise, for example in a log file, a line
    every LOG_EVERY seconds. Nothing is printed if there is a listener.
    """

    def __init__(self, title: str, done: int, total: int, later: int, updated: Callable[[], None]):
        """`done` of `total` images were trained on before; `later` are those of the epochs after this one.

        `updated` is called after each update.
        """
        self._title, self._total, self._later, self._updated = title, total, later, updated
        self._listener = listener.current()
        self._lines = not shows_bars(sys.stdout)
        self._bar = ProgressBar(disable=True)
        with optional_stdout():
            self._bar = ProgressBar(
                desc=title, initial=done, total=total, unit=" images", unit_scale=True, leave=False,
                disable=self._lines or self._listener is not None, file=sys.stdout,
            )  # fmt: skip
        self._last_line = time.monotonic()
        if self._listener:
            self._listener.begin(title)

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with optional_stdout():
            self._bar.close()

    def update(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        self._show(done, loss, accuracy, images_per_second)
        self._updated()

    def _show(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if self._listener:
            self._listener.progress(self._total - done + self._later, images_per_second)
            return
        with optional_stdout():
            self._bar.set_postfix_str(f"loss: {loss:.4f}, accuracy: {accuracy:.4f}", refresh=False)
            self._bar.update(done - self._bar.n)
        if self._lines and time.monotonic() - self._last_line > LOG_EVERY:
            self._last_line = time.monotonic()
            left = (self._total - done) / images_per_second
            say(
                f"{self._title}: {done:,} of {self._total:,} images, {images_per_second:,.0f} images/s, "
                f"{left:.0f} s left, loss: {loss:.4f}, accuracy: {accuracy:.4f}"
            )


def epoch_line(title: str, epochs: list[dict[str, Any]], with_learning_rate: bool) -> None:
    """Prints the last line of metrics.jsonl in the style of Keras."""
    line = epochs[-1]
    learning_rate = f" - learning_rate: {line['learning_rate']:.3g}" if with_learning_rate else ""
    text = (
        f"{title} - {line['epoch_seconds']:.1f}s - {line['images_per_second']:,.0f} images/s"
        f" - loss: {line['train_loss']:.4f} - accuracy: {line['train_accuracy']:.4f}{learning_rate}"
        f"{_validation_part(epochs) if validated(epochs) else ''}"
    )
    say(text)
    if hearer := listener.current():
        hearer.epoch(text, line.get("validation_accuracy"))


def _validation_part(epochs: list[dict[str, Any]]) -> str:
    """The part of an epoch's line about validation."""
    loss, best = epochs[-1]["validation_loss"], min((line["validation_loss"] for line in epochs[:-1]), default=math.inf)
    change = f"improved from {best:.4f} to {loss:.4f}" if loss < best else f"did not improve from {best:.4f}"
    return f" - val_loss: {loss:.4f} - val_accuracy: {epochs[-1]['validation_accuracy']:.4f} - val_loss {change}"


def result(run: dict[str, Any], workdir: Path) -> None:
    """Prints the content of run.json that matters most."""
    is_imported, has_validation = IMPORTED in run, run["num_validation_examples"] > 0
    if has_validation:
        epoch = "as imported" if is_imported else f"best epoch {run['best_epoch']}"
        loss, accuracy = run["best_validation_loss"], run["best_validation_accuracy"]
        early = "; stopped early, because it did not fall further" if run.get("stopped_early") else ""
        say(f"{epoch}: validation loss {loss:.4f}, accuracy {accuracy:.2%}{early}")
    trained = "best epoch" if has_validation else "last epoch; there are no validation images"
    tested = "as imported" if is_imported else trained
    say(f"test accuracy {run['test_accuracy']:.2%} (loss {run['test_loss']:.4f}), {tested}")
    if "tta_test_accuracy" in run:
        say(f"with test-time augmentation {run['tta_test_accuracy']:.2%} (loss {run['tta_test_loss']:.4f})")
    say(f"record      {relative(workdir / 'run.json')}")
    if not is_imported:
        say(f"pictures    {relative(workdir / 'figures')}")
