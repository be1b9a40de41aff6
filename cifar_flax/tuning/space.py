"""The search space: a Python file whose `space(trial)` returns the fields that a trial changes, with their values."""

import re
import runpy
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from ml_collections import ConfigDict

from cifar_flax.cli.experiment import errors_in
from cifar_flax.errors import BadInput, nearest
from cifar_flax.training.checks import TYPE_NAMES, check_config

# Trials with other values of these fields could not be compared, or would be better by chance alone.
NOT_TUNED = ("experiment", "dataset", "data_dir", "label", "test_share", "num_validation", "patience", "seed")
NUM_SAMPLES = 20  # of the space, drawn before the search begins, so that mistakes show at once


class Space:
    """A search space over the fields of an experiment.

    Attributes:
        path: the file that defines it.
        text: the content of the file.
        base: the experiment's config; it has the values of the fields that are not tuned.
        fields: the names of the tuned fields, as far as samples of the space show.
    """

    def __init__(self, path: Path, base: ConfigDict, arguments: list[str]):
        """Loads the file and checks samples of the space.

        Args:
            path: the file.
            base: the experiment's config.
            arguments: those of a command that give this config.

        Raises:
            BadInput: the file cannot be read, raises an error, or returns a field or value that is not valid.
        """
        self.path, self.base, self._arguments = path, base, arguments
        with self._errors():
            self.text = path.read_text(encoding="utf-8")
            function = runpy.run_path(str(path)).get("space")
        if not callable(function):
            raise BadInput(f"--space: {path} has no function space(trial); add one that returns a dict of fields")
        self._space: Callable[[optuna.trial.BaseTrial], Any] = function
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        trials = [study.ask() for _ in range(NUM_SAMPLES)]
        self.fields = sorted({field for trial in trials for field in self.values(trial)})
        if not any(trial.params for trial in trials):
            raise BadInput(
                f"--space: {path} suggests no value; call, for example, trial.suggest_float(name, low, high)"
            )
        self._names = sorted({name for trial in trials for name in trial.params})
        for field in self.fields:
            if any(argument.split("=")[0] == f"--config.{field}" for argument in arguments):
                raise BadInput(f"--config.{field}: {path} tunes this field; leave the flag out, or the field there")

    def values(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """The fields of a trial and their values.

        Raises:
            BadInput: as in `__init__`; the message names the line, if there is one.
        """
        with self._errors():
            values = self._space(trial)
        if not isinstance(values, dict) or not all(isinstance(field, str) for field in values):
            raise BadInput(f"--space: space() of {self.path} returns {type(values).__name__}, not a dict of fields")
        try:
            check_config(self.config(values))
        except BadInput as error:
            field = str(error).removeprefix("config.").split(":")[0]
            raise BadInput(f"--space: {self._line_of(field)}: {error}") from error
        return values

    def config(self, values: dict[str, Any]) -> ConfigDict:
        """The experiment's config with these values.

        Raises:
            BadInput: there is no such field, it cannot be tuned, or a value has another type.
        """
        config = self.base.copy_and_resolve_references()
        for field, value in values.items():
            if field not in config:
                raise BadInput(f"config.{field}: no such field{nearest(field, list(config))}")
            if field in NOT_TUNED:
                raise BadInput(
                    f"config.{field}: it cannot be tuned, because trials with other values cannot be compared"
                )
            try:
                config[field] = value
            except TypeError as error:
                kind = TYPE_NAMES[config.get_type(field)]
                raise BadInput(f"config.{field}: {value!r} is not valid; use {kind}") from error
        return config

    def recipe(self) -> dict[str, Any] | None:
        """The suggestions with which a trial is the experiment itself; None if the space does not contain it.

        Only the names of suggestions that are those of fields show which suggestions these are.
        """
        suggestions = {name: self.base[name] for name in self._names if name in self.base}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns about a value outside of the space
            try:
                trial = optuna.trial.FixedTrial(suggestions)
                return suggestions if self.config(self.values(trial)) == self.base else None
            except BadInput:
                return None

    def command(self, values: dict[str, Any]) -> str:
        """The command that trains the config with these values."""
        flags = [f"--config.{field}={value}" for field, value in values.items() if value is not None]
        return shlex.join(["python", "-m", "cifar_flax.main", *self._arguments, *flags])

    def is_reason(self, error: BadInput) -> bool:
        """Whether a run was refused because of a tuned field, such as a batch size that does not fit."""
        return any(str(error).startswith(f"config.{field}:") for field in self.fields)

    def _errors(self) -> Any:
        return errors_in(self.path, "--space", "a search space only defines space(trial)")

    def _line_of(self, field: str) -> str:
        """The file, with the first line that names the field as a string."""
        lines = enumerate(self.text.splitlines(), 1)
        number = next((number for number, line in lines if re.search(rf"""['"]{re.escape(field)}['"]""", line)), None)
        return f"{self.path}, line {number}" if number else str(self.path)
