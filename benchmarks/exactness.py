"""`python -m benchmarks.exactness`: compares what the experiments compute in float32 with float64, array by array.

jaxlib 0.10.2 computes some reductions wrongly on CPUs without an error (https://github.com/jax-ml/jax/issues/39103).
The published runs used it, without the option that avoids the fault. Three processes compute the same: in float32 with
the options of those runs, in float32 with the option in addition, and in float64 with the option in addition. They run
the compiled programs of a run on real images: the statistics of the training images, one training step and the
evaluation. The error of an array is its largest absolute difference from float64, divided by the largest absolute value
in float64. `make results` copies the errors to docs/reliability.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from benchmarks.machine import describe
from benchmarks.table import QUANTITIES
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.config import base_config
from cifar_flax.data import Dataset, Split, load
from cifar_flax.errors import BadInput
from cifar_flax.training.evaluation import make_evaluate, place_split
from cifar_flax.training.job import Job, init_state, make_job, resolve_config, zero_metrics
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import make_epoch_order, make_train_steps

ROOT = Path(__file__).parents[1]
PUBLISHED = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
AVOIDING = f"{PUBLISHED} --xla_cpu_experimental_ynn_fusion_type=-reduce"
PROCESSES = {  # the first stores the state that all of them start from
    "avoiding": {"XLA_FLAGS": AVOIDING, "JAX_ENABLE_X64": "0"},
    "published": {"XLA_FLAGS": PUBLISHED, "JAX_ENABLE_X64": "0"},
    "float64": {"XLA_FLAGS": AVOIDING, "JAX_ENABLE_X64": "1"},
}
REPRODUCER = "reproducer"
REDUCTIONS = ("reduce", "reduce-window")  # operations of XLA


class Case(NamedTuple):
    """An experiment as it is compared.

    Attributes:
        experiment: its name.
        lowering: of `config.lowering`.
        batch_size: of the training step; None: the experiment's.
        num_evaluated: numbers of images that are evaluated: of the test images, or, above 10,000, of all others.
    """

    experiment: str
    lowering: str = "auto"
    batch_size: int | None = None
    num_evaluated: Sequence[int] = (10_000, 50_000)

    @property
    def name(self) -> str:
        return self.experiment if self.lowering == "auto" else f"{self.experiment}, {self.lowering}"


CASES = [
    *(Case(name) for name in ("mlp", "cnn", "cnn_tuned")),
    *(Case(name, num_evaluated=()) for name in ("cnn_augmented", "cnn_translated")),  # evaluated as cnn
    *(Case(name, num_evaluated=[1000]) for name in ("alexnet", "alexnet_tuned", "airbench94", "airbench94_muon")),
    *(Case("cnn", lowering, num_evaluated=[1000]) for lowering in ("library", "winograd")),
    *(Case("alexnet", lowering, num_evaluated=[200]) for lowering in ("library", "winograd")),
    *(Case("airbench94", lowering, 32, num_evaluated=[200]) for lowering in ("library", "patches")),
]


def use_float64() -> None:
    """Computes in float64 what the package computes in float32, with the random numbers that it draws in float32."""
    random = dict(vars(jax.random))

    def bernoulli(key: Any, p: float = 0.5, shape: Any = None) -> Any:
        return random["bernoulli"](key, np.float32(p), shape)

    uniform, randint = partial(random["uniform"], dtype=np.float32), partial(random["randint"], dtype=np.int32)
    vars(jax.random).update(bernoulli=bernoulli, uniform=uniform, randint=randint)
    vars(jnp).update(float32=jnp.float64)


def named(quantity: str, tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{quantity}: {jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def reductions(compiled: Any) -> Counter[str]:
    """The computations with a reduction that a program leaves to the library YNNPACK.

    Each is given by its operations and the shape that its first reduction reads.
    """
    text, counts = compiled.as_text(), Counter[str]()
    for computation in re.findall(r'calls=%?([\w.-]+)[^\n]*"kind":"__ynn_fusion"', text):
        body = re.search(rf"^%?{re.escape(computation)} \(.*?^}}", text, re.MULTILINE | re.DOTALL)
        assert body
        lines = re.findall(r"%?([\w.-]+) = (\w+\[[\d,]*\])\S* ([\w-]+)\((?:%?([\w.-]+))?", body[0])
        shapes = {name: shape for name, shape, _, _ in lines}
        reduced = [shapes[source] for _, _, operation, source in lines if operation in REDUCTIONS]
        if reduced:
            operations = [name for _, _, name, _ in lines if name not in ("parameter", "constant")]
            counts[" ".join([*operations, reduced[0]])] += 1
    return counts


class Computed(NamedTuple):
    """What one process computes for one case.

    Attributes:
        arrays: by `QUANTITY: NAME`.
        reductions: of each compiled program.
    """

    arrays: dict[str, np.ndarray]
    reductions: dict[str, Counter[str]]


def reproduce() -> Computed:
    """Squared lengths of 40,000 products of a 3x3 matrix with a vector; the rows from 32,768 on are wrong."""
    random = np.random.default_rng(0)
    vectors, matrix = (jnp.asarray(random.normal(size=shape).astype(np.float32)) for shape in ((40_000, 3), (3, 3)))
    vectors, matrix = vectors.astype(jnp.float32), matrix.astype(jnp.float32)
    squares = jax.vmap(lambda matrix, vector: jnp.sum((matrix @ vector) ** 2), in_axes=(None, 0))
    compiled = jax.jit(squares).lower(matrix, vectors).compile()
    return Computed(named("evaluation", compiled(matrix, vectors)), {"evaluation": reductions(compiled)})


def compute(case: Case, config: ConfigDict, dataset: Dataset, start: Path) -> Computed:
    """Computes all quantities of a case.

    Args:
        case: the case.
        config: of its experiment.
        dataset: of its experiment.
        start: file with the parameters and statistics to start from; written if it does not exist.
    """
    devices = jax.devices()[:1]
    config = resolve_config(config, devices)
    job = make_job(config, len(dataset.train), dataset.num_classes, devices)
    init = jax.jit(partial(init_state, job)).lower(jax.random.key(0), dataset.train.images).compile()
    state = init(jax.random.key(0), dataset.train.images)
    computed = Computed(statistics(state.batch_stats), {"statistics": reductions(init)})
    state = with_start(job, state, start)
    for num_images in case.num_evaluated:
        for tta in sorted({"none", config.tta}):
            add(computed, *evaluation(job, config, state, dataset, num_images, tta))
    add(computed, *training_step(job, config, state, dataset))
    return computed


def add(computed: Computed, arrays: dict[str, np.ndarray], name: str, counts: Counter[str]) -> None:
    computed.arrays.update(arrays)
    computed.reductions[name] = counts


def statistics(batch_stats: Any) -> dict[str, np.ndarray]:
    """The statistics of the training images. A whitening kernel is turned back into the covariance of the patches.

    The kernel itself cannot be compared, because the signs of its eigenvectors are arbitrary.
    """
    tree = dict(batch_stats)
    if "whiten" in tree:
        kernel = np.asarray(tree["whiten"]["kernel"], np.float64)
        kernel = kernel.reshape(-1, kernel.shape[-1])[:, : kernel.shape[-1] // 2]
        tree["whiten"] = {"covariance": np.linalg.inv(kernel @ kernel.T)}
    return named("statistics", tree)


def with_start(job: Job, state: TrainState, start: Path) -> TrainState:
    """The state with the parameters and statistics in a file.

    Adam's second moments start at 1e-4 instead of 0, with which its first update is hardly more than the sign of the
    gradient and amplifies the rounding of small numbers.
    """
    leaves, structure = jax.tree.flatten((state.params, state.batch_stats))
    if not start.exists():
        np.savez(start, *leaves)
    with np.load(start) as stored:
        leaves = [jnp.asarray(stored[name]).astype(jnp.float32) for name in stored.files]
    params, batch_stats = jax.tree.unflatten(structure, leaves)
    opt_state = job.optimizer.init(params)
    moments = optax.tree_utils.tree_get(opt_state, "nu")
    if moments is not None:
        opt_state = optax.tree_utils.tree_set(
            opt_state, nu=jax.tree.map(lambda moment: jnp.full_like(moment, 1e-4), moments)
        )
    average = jax.tree.map(jnp.copy, (params, batch_stats)) if job.averaging else None
    return replace(state, params=params, batch_stats=batch_stats, opt_state=opt_state, average=average)


def evaluation(
    job: Job, config: ConfigDict, state: TrainState, dataset: Dataset, num_images: int, tta: str
) -> tuple[dict[str, np.ndarray], str, Counter[str]]:
    """The sum of the losses and the logits of the first `num_images` images."""
    splits = [dataset.test] if num_images <= len(dataset.test) else [dataset.validation, dataset.train]
    images, labels = (np.concatenate([getattr(split, name) for split in splits]) for name in ("images", "labels"))
    placed = place_split(Split(images, labels), len(labels), job.mesh)._replace(num_images=np.int32(num_images))
    evaluate = make_evaluate(
        job.model, num_classes=dataset.num_classes, batch_size=config.eval_batch_size, mesh=job.mesh, tta=tta
    )
    compiled = evaluate.lower(state.params, state.batch_stats, *placed).compile()
    metrics, logits = compiled(state.params, state.batch_stats, *placed)
    name = f"{num_images} images, tta {tta}"
    arrays = {"loss": metrics.loss_sum, "correct": metrics.num_correct, "logits": logits[:num_images]}
    return named("evaluation", {name: arrays}), f"evaluation of {name}", reductions(compiled)


def training_step(
    job: Job, config: ConfigDict, state: TrainState, dataset: Dataset
) -> tuple[dict[str, np.ndarray], str, Counter[str]]:
    """The first step. The first moments start at 0, so they are now a multiple of the gradients (plus weight decay)."""
    train, metrics = place_split(dataset.train, len(dataset.train), job.mesh), zero_metrics(job)
    order = make_epoch_order(job, len(dataset.train))(state.rng, np.int32(0))
    arguments = state, metrics, order, train.images, train.labels, np.int32(1)
    compiled = make_train_steps(job).lower(*arguments).compile()
    state, metrics, diverged = compiled(*arguments)
    assert not diverged
    name = "trace" if config.optimizer in ("sgd", "muon") else "mu"
    moments = [moment for _, moment in optax.tree_utils.tree_get_all_with_path(state.opt_state, name)]
    arrays = named("gradients", {"loss": metrics.loss_sum, "gradients": moments})
    return arrays | named("state", [state.params, state.batch_stats]), "training", reductions(compiled)


def child(process: str, dataset_name: str, folder: Path, names: Sequence[str]) -> None:
    """Computes all cases in this process and writes them to `folder`."""
    if process == "float64":
        use_float64()
    computed = reproduce()
    write(folder / f"{process} {REPRODUCER}", computed)
    for case in CASES:
        if case.name in names:
            config = load_experiment(str(ROOT / "experiments" / f"{case.experiment}.py"))
            config.update(dataset=dataset_name, lowering=case.lowering)
            config.batch_size = case.batch_size or config.batch_size
            config.dtype = "float64" if process == "float64" else config.dtype
            computed = compute(case, config, load(config), folder / f"start {case.experiment}.npz")
            write(folder / f"{process} {case.name}", computed)
            print(f"{process:9}  {case.name}", flush=True)


def write(path: Path, computed: Computed) -> None:
    np.savez(f"{path}.npz", allow_pickle=False, **computed.arrays)
    Path(f"{path}.json").write_text(json.dumps(computed.reductions))


def compare(folder: Path, name: str) -> dict[str, Any]:
    """The errors of a case with the array that has the largest, and the reductions of its programs as published."""
    arrays = {process: dict(np.load(folder / f"{process} {name}.npz")) for process in PROCESSES}
    pairs = {
        "published": (arrays["published"], arrays["float64"]),
        "avoiding": (arrays["avoiding"], arrays["float64"]),
        "published and avoiding": (arrays["published"], arrays["avoiding"]),
    }
    errors: dict[str, Any] = {}
    for quantity in QUANTITIES:
        names = [array for array in arrays["float64"] if array.startswith(f"{quantity}: ") and "correct" not in array]
        if names:
            errors[quantity] = {pair: largest_error(*both, names) for pair, both in pairs.items()}
    correct = {
        array.removeprefix("evaluation: "): {process: int(arrays[process][array]) for process in PROCESSES}
        for array in arrays["float64"]
        if "correct" in array
    }
    counts = {
        process: json.loads((folder / f"{process} {name}.json").read_text()) for process in ("published", "avoiding")
    }
    return {"errors": errors, "correct": correct, "reductions": counts}


def largest_error(
    arrays: dict[str, np.ndarray], exact: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, float | str]:
    errors = {name: error(arrays[name], exact[name]) for name in names}
    name = max(errors, key=errors.__getitem__)
    return {"error": errors[name], "array": name.partition(": ")[2]}


def error(array: np.ndarray, exact: np.ndarray) -> float:
    """The largest absolute difference, divided by the largest absolute value of `exact` unless that is 0."""
    difference = np.abs(array.astype(np.float64) - exact.astype(np.float64)).max()
    return float(difference / (np.abs(exact).max() or 1))


def find_dataset() -> str:
    config = base_config()
    config.dataset = "cifar10"
    try:
        load(config)
    except BadInput as error:
        print(f"using synthetic images instead of CIFAR-10: {error}")
        return "synthetic"
    return "cifar10"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        process, dataset, folder, *names = sys.argv[2:]
        child(process, dataset, Path(folder), names)
        return
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", choices=names, default=names, help="default: all; others are kept in OUTPUT"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results/exactness.json")
    options = parser.parse_args()
    dataset = find_dataset()
    with tempfile.TemporaryDirectory() as name:
        for process, variables in PROCESSES.items():
            command = [sys.executable, "-m", "benchmarks.exactness", "--child", process, dataset, name, *options.cases]
            subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu", **variables}, check=True)
        cases = {case: compare(Path(name), case) for case in (REPRODUCER, *options.cases)}
    record = {"date": date.today().isoformat(), "machine": describe(), "dataset": dataset, "processes": PROCESSES}
    record["cases"] = earlier_cases(options.output, record) | cases
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}; `make results` updates the table in docs/")


def earlier_cases(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The cases of an earlier result, if it is of the same machine, versions, dataset and options."""
    earlier = json.loads(path.read_text()) if path.exists() else {}
    same = all(earlier.get(name) == record[name] for name in ("machine", "dataset", "processes"))
    return earlier["cases"] if same else {}


if __name__ == "__main__":
    main()
