"""A search space for the recipe of alexnet_tuned. On a GPU: a trial takes an hour or more on a CPU.

python -m cifar_flax.tune --config alexnet_tuned --space alexnet_space
"""

from typing import Any

import optuna


def space(trial: optuna.Trial) -> dict[str, Any]:
    """The fields of a trial. A suggestion with the name of its field lets the search begin with the recipe itself."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 4e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.5, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
        "warmup": trial.suggest_float("warmup", 0.05, 0.4),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "max_translation": trial.suggest_int("max_translation", 2, 6),
    }
