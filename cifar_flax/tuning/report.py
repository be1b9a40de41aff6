"""What a search shows: lines on the screen, and WORKDIR/trials.json and WORKDIR/report.html with all trials."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import markupsafe
import optuna
import optuna.visualization
from optuna.trial import FrozenTrial, TrialState
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from cifar_flax.errors import Unwritable
from cifar_flax.reporting.formatting import percent
from cifar_flax.reporting.templates import render
from cifar_flax.tuning.study import ACCURACY, PROBLEM, RECIPE, SECONDS, VALUES, SharedStudy, complete
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.records import Records

NUM_BEST = 10  # rows of the table of the best trials
OPTIMISTIC = (
    "The lowest of many validation losses is optimistic, because it was chosen for being low. The test accuracy is "
    "not: the test images were used once, after the choice."
)


def values_text(values: dict[str, Any]) -> str:
    """`learning_rate 0.00213, schedule linear`."""
    texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values.values())
    return ", ".join(f"{field} {text}" for field, text in zip(values, texts, strict=True))


def trial_line(study: SharedStudy, number: int) -> str:
    """How a trial ended, in one line."""
    row, best = trial_row(study.trial(number)), complete(study.trials())
    if "problem" in row:
        return f"trial {number}: {row['problem']}"
    loss = f"validation loss {row['validation_loss']:.4f}, accuracy {percent(row['validation_accuracy'])}"
    if row["state"] == "pruned":
        return f"trial {number}: pruned after epoch {row['epochs']}, {loss}"
    mark = ", the best so far" if best and best[0].number == number else ""
    return f"trial {number}: {loss}, epoch {row['best_epoch']} of {row['epochs']}, {row['train_seconds']:,.0f} s{mark}"


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """What trials.json holds about a trial."""
    losses, attributes = trial.intermediate_values, trial.user_attrs
    problem = {"problem": attributes[PROBLEM]} if PROBLEM in attributes else {}
    diverged = trial.state == TrialState.COMPLETE and bool(problem)
    return {
        "trial": trial.number,
        "state": "diverged" if diverged else trial.state.name.lower(),
        "is_recipe": RECIPE in attributes,  # of the experiment
        "validation_loss": min(losses.values(), default=None),
        "validation_accuracy": attributes.get(ACCURACY),
        "best_epoch": min(losses, key=lambda epoch: losses[epoch], default=None),
        "epochs": len(losses),
        "train_seconds": attributes.get(SECONDS),
        "values": attributes.get(VALUES, {}),
        **problem,
    }


def summary(study: SharedStudy) -> dict[str, Any]:
    """What trials.json holds: all trials, and the result of the best one's test once there is one."""
    trials, best = study.trials(), complete(study.trials())
    runs = {trial.number: Records(study.folder(trial.number)).run for trial in best}
    tested = {
        number: {field: run[field] for field in ("test_loss", "test_accuracy")}
        for number, run in runs.items()
        if run.get("status") == "done"
    }
    config = study.space.base
    return {
        "experiment": config.experiment,
        "dataset": config.dataset,
        "seed": config.seed,
        "num_epochs": config.num_epochs,
        "space": study.space.path.name,
        "best_trial": best[0].number if best else None,
        "tested_trials": tested,
        "trials": [trial_row(trial) for trial in trials],
    }


def sentences(found: dict[str, Any]) -> list[str]:
    """What the search has found, for the screen and the page. `found` is the `summary`."""
    rows, best, tested = found["trials"], found["best_trial"], found["tested_trials"]
    counts = Counter(row["state"] for row in rows)
    compared = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"{len(rows)} trials of {found['num_epochs']:g} epochs were compared by validation loss: {compared}."]
    if best is None:
        return lines
    row = rows[best]
    lines.append(
        f"The best is trial {best}: validation loss {row['validation_loss']:.4f}, accuracy "
        f"{percent(row['validation_accuracy'])} (epoch {row['best_epoch']}); {values_text(row['values'])}."
    )
    recipe = next((other for other in rows if other["is_recipe"] and other["state"] == "complete"), None)
    if recipe is row:
        lines.append("That is the recipe as it was.")
    elif recipe:
        lines.append(
            f"The recipe as it was is trial {recipe['trial']}: validation loss {recipe['validation_loss']:.4f}, "
            f"accuracy {percent(recipe['validation_accuracy'])}."
        )
    if best in tested:
        lines += [f"Trial {best} has a test accuracy of {percent(tested[best]['test_accuracy'])}.", OPTIMISTIC]
    earlier = [str(number) for number in tested if number != best]
    if earlier:
        lines.append(f"Tested before, when the search was shorter: trial {', '.join(earlier)}.")
    return lines


def write(study: SharedStudy) -> dict[str, Any]:
    """Writes trials.json and report.html. Returns the summary.

    Raises:
        Unwritable: the workdir cannot be written.
    """
    with study.turn():
        found = summary(study)
        try:
            write_text(study.workdir / "trials.json", json.dumps(found, indent=2) + "\n")
            write_text(study.workdir / "report.html", page(study, found))
        except OSError as error:
            raise Unwritable(f"{error.filename or study.workdir} cannot be written ({error.strerror})") from error
    return found


def page(study: SharedStudy, found: dict[str, Any]) -> str:
    """The content of report.html: self-contained, with the script of its charts."""
    done = [row for row in found["trials"] if row["state"] == "complete"]
    best = found["best_trial"]
    return render(
        Path(__file__).with_name("report.html"),
        title=f"Search of {found['experiment']}",
        sentences=sentences(found),
        command=None if best is None else study.space.command(found["trials"][best]["values"]),
        fields=study.space.fields,
        rows=sorted(done, key=lambda row: row["validation_loss"])[:NUM_BEST],
        charts=charts(study) if len(done) > 1 else [],
        plotly=markupsafe.Markup(get_plotlyjs()),
    )


def charts(study: SharedStudy) -> list[tuple[str, markupsafe.Markup]]:
    """The charts of the page, as (title, HTML)."""
    loss, draw = "validation loss", optuna.visualization
    figures: dict[str, Figure] = {
        "History": study.draw(draw.plot_optimization_history, target_name=loss),
        "Importance of the fields": study.draw(draw.plot_param_importances, target_name=loss),
        "Parallel coordinates": study.draw(draw.plot_parallel_coordinate, target_name=loss),
    }
    for figure in figures.values():
        figure.update_layout(title=None, margin={"t": 40, "b": 40})
    return [
        (title, markupsafe.Markup(figure.to_html(full_html=False, include_plotlyjs=False)))
        for title, figure in figures.items()
    ]
