"""How the seeds of a sweep end."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifar_flax.errors import BadInput, Diverged, Failed, Locked, warn
from cifar_flax.reporting import console
from cifar_flax.reporting.formatting import describe_seeds


class Outcomes:
    """Collects the runs, and the seeds that could not be trained. It can be used in several threads.

    Attributes:
        runs: the content of run.json of each seed that is done.
    """

    def __init__(self, experiment: str, folder: Path) -> None:
        self.runs: dict[int, dict[str, Any]] = {}
        self._experiment, self._folder = experiment, folder
        self._refused: list[int] = []
        self._failed: list[int] = []
        self._diverged: list[int] = []

    @contextmanager
    def collected(self, seed: int, workdir: Path) -> Iterator[None]:
        """Reports an error that ends the block if it does not concern the other seeds, and raises all others."""
        try:
            yield
        except Diverged as error:
            console.show(f"seed {seed} diverged: {error}\n")
            self._diverged.append(seed)
        except Failed as error:
            warn(f"seed {seed} failed: {error}")
            self._failed.append(seed)
        except BadInput as error:
            is_usable = os.path.isdir(self._folder)  # noqa: PTH112, also False for a path that cannot be looked at
            is_about_this_seed = str(workdir) in str(error) and is_usable
            if isinstance(error, Locked) or not is_about_this_seed:
                raise
            warn(f"error: {error}")
            self._refused.append(seed)

    def report(self, seeds: Sequence[int]) -> None:
        """Prints a table of the seeds that are done.

        Raises:
            BadInput, Failed, Diverged: the first of these that happened to a seed.
        """
        if self.runs:
            console.say(console.seeds_table([self.runs[seed] for seed in seeds if seed in self.runs]))
        if self._refused:
            raise BadInput(f"{self._describe(self._refused)} could not be trained, see above")
        if self._failed:
            raise Failed(f"{self._describe(self._failed)}, see above")
        if self._diverged:
            raise Diverged(f"{self._describe(self._diverged)}, see above")

    def _describe(self, seeds: list[int]) -> str:
        return f"{describe_seeds(sorted(seeds))} of {self._experiment}"
