"""CIFAR-10 image classification in JAX and Flax. The Python API, which docs/walkthrough.ipynb shows in use:

    from cifar_flax import load_experiment, load_run, train_and_evaluate

    run = train_and_evaluate(load_experiment("cnn"), "runs/cnn")  # the content of run.json
    classifier = load_run("runs/cnn")
    probabilities = classifier(images)  # [N, H, W, C] uint8 -> [N, K] float32

Importing the package is instant. The first use of one of these names imports jax and, as the commands do, silences
TensorFlow (TF_CPP_MIN_LOG_LEVEL, TF_ENABLE_ONEDNN_OPTS) and sets XLA's options for CPUs (XLA_FLAGS), unless jax has
already found its devices. What you have set in the environment is kept.
"""

_PLACES = {
    "figures": "reporting.figures",
    "load_dataset": "data:load",
    "load_experiment": "cli.experiment:load_experiment",
    "load_metrics": "workdir.records:load_metrics",
    "load_run": "inference:load_run",
    "load_split": "inference:load_split",
    "make_model": "models:make_model",
    "model_table": "reporting.console:model_table",
    "read_image": "data.pictures:read_image",
    "shift_and_flip": "training.augment:shift_and_flip",
    "train_and_evaluate": "train:train_and_evaluate",
}
__all__ = list(_PLACES)


def __dir__() -> list[str]:
    return __all__


TYPE_CHECKING = False  # typing.TYPE_CHECKING, without an import
if TYPE_CHECKING:
    from cifar_flax.cli.experiment import load_experiment as load_experiment
    from cifar_flax.data import load as load_dataset  # noqa: F401
    from cifar_flax.data.pictures import read_image as read_image
    from cifar_flax.inference import load_run as load_run
    from cifar_flax.inference import load_split as load_split
    from cifar_flax.models import make_model as make_model
    from cifar_flax.reporting import figures as figures
    from cifar_flax.reporting.console import model_table as model_table
    from cifar_flax.train import train_and_evaluate as train_and_evaluate
    from cifar_flax.training.augment import shift_and_flip as shift_and_flip
    from cifar_flax.workdir.records import load_metrics as load_metrics
else:

    def __getattr__(name: str) -> object:
        """Imports a name of the API.

        Raises:
            AttributeError: it is not part of the API.
            BadInput: the environment variable XLA_FLAGS cannot be used.
        """
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pkgutil import resolve_name

        from cifar_flax.cli.commandline import silence_tensorflow
        from cifar_flax.ops.xla_options import choose_options_if_early

        silence_tensorflow()
        choose_options_if_early()
        return resolve_name(f"{__name__}.{_PLACES[name]}")
