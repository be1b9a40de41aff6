"""A search space for the recipe of cnn_tuned.

python -m cifar_flax.tune --config cnn_tuned --space cnn_space
"""

from typing import Any

import optuna


def space(trial: optuna.Trial) -> dict[str, Any]:
    """The fields of a trial. A suggestion with the name of its field lets the search begin with the recipe itself."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.5, log=True),
        "warmup": trial.suggest_float("warmup", 0.05, 0.4),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "max_translation": trial.suggest_int("max_translation", 1, 4),
    }
