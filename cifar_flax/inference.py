"""A run's workdir as a function: from images to probabilities, with the parameters that count.

classifier = load_run("runs/cnn")
probabilities = classifier(images)  # [N, H, W, C] uint8 -> [N, K] float32
print(classifier.class_names[probabilities[0].argmax()])
"""

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cifar_flax.config import differences, with_defaults
from cifar_flax.errors import BadInput
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.optimizers import make_optimizer
from cifar_flax.training.programs import make_model, resolve_lowering
from cifar_flax.training.state import TrainState, create_train_state
from cifar_flax.training.steps import data_mesh, replicated
from cifar_flax.workdir.checkpoints import Checkpoints, Damaged, abstract, read
from cifar_flax.workdir.records import Records


class Classifier:
    """A trained network. Called with images [N, H, W, C] uint8 it returns probabilities [N, K] float32.

    Attributes:
        config: of the run, as it took effect.
        run: what run.json holds.
        epoch: how many of them the checkpoint has finished.
        model: the network.
        params: its parameters.
        batch_stats: its running statistics; may be empty.
    """

    def __init__(
        self, config: ConfigDict, run: dict[str, Any], epoch: int, model: nn.Module, params: Any, batch_stats: Any
    ):
        self.config, self.run, self.epoch, self.model = config, run, epoch, model
        self.params, self.batch_stats = params, batch_stats
        self._probabilities = jax.jit(self._compute)

    @property
    def class_names(self) -> list[str]:
        return self.run["class_names"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.run["image_shape"]
        return height, width, channels

    def _compute(self, params: Any, batch_stats: Any, images: Array) -> Array:
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Any = self.model.apply(variables, images.astype(jnp.float32) / 255, train=False)
        return nn.softmax(logits)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Raises ValueError if the images are not [N, H, W, C] uint8 of the network's size."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(f"images are {images.dtype} {list(images.shape)}, not uint8 {['N', *self.image_shape]}")
        size = self.config.eval_batch_size
        found = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))  # of one size: compiled once
            found.append(np.asarray(self._probabilities(self.params, self.batch_stats, filled))[: len(batch)])
        return np.concatenate(found)


def load_run(workdir: str | Path) -> Classifier:
    """The network of a workdir with the parameters of its best checkpoint; of an unfinished run, the best so far.

    Of a run without validation images it is the newest checkpoint.

    Raises:
        BadInput: there is no run or no checkpoint, or they are damaged.
    """
    workdir = Path(workdir).expanduser().absolute()
    records = Records(workdir)
    if not records.config or not records.run:
        raise BadInput(f"--workdir: there is no run in {workdir}; train one with python -m cifar_flax.main")
    unknown = [field for field in ("platform", "image_shape", "class_names") if field not in records.run]
    if unknown:
        raise BadInput(f"--workdir: {workdir / 'run.json'} lacks {', '.join(unknown)}; train the run again")
    which = "best" if records.config.get("num_validation") else "latest"
    if not any((workdir / "checkpoints" / which).glob("[0-9]*")):
        raise BadInput(f"--workdir: the run in {workdir} has no checkpoint yet; an epoch must have been finished")
    config, run, device = ConfigDict(with_defaults(records.config)), records.run, jax.devices()[0]
    if run["platform"] != device.platform:
        config.lowering = "auto"
        config.lowering = resolve_lowering(config, device.platform)
    model = make_model(config, len(run["class_names"]))
    create = partial(create_train_state, model, make_optimizer(config, 1, 1), averaged=bool(config.average_every))
    image = jnp.zeros((1, *run["image_shape"]), jnp.uint8)
    like = jax.eval_shape(create, jax.random.key(0), image), jax.eval_shape(Metrics.zero)
    state, progress = _read(workdir, which, abstract(like, replicated(data_mesh([device]))))
    if differences(progress["config"], config):
        raise BadInput(f"--workdir: {workdir / 'config.json'} is not the config of the {which} checkpoint; restore it")
    return Classifier(config, run, len(progress["epochs"]), model, state.params, state.batch_stats)


def _read(workdir: Path, which: str, like: Any) -> tuple[TrainState, dict[str, Any]]:
    """The state and the progress of the `best` or the `latest` checkpoint."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        manager = checkpoints.best if which == "best" else checkpoints.latest
        try:
            (state, _), progress = read(manager, manager.latest_step(), like)
        except Damaged as error:
            raise BadInput(f"--workdir: {error}; if a run trains there now, try again, else train anew") from error
    return state, progress
