"""The training command on the experiments, with an unusable workdir, and interrupted by signals."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_flax.errors import BadInput
from cifar_flax.main import main, parse
from cifar_flax.training.checks import check_config, check_sizes

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_project_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def start(command):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def run_main(*arguments):
    """Runs the command and returns its exit code, stdout and stderr."""
    process = start([sys.executable, "-m", "cifar_flax.main", *arguments])
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_batch_sizes_of_the_experiments_fit_common_device_counts(devices):
    for name in EXPERIMENTS:
        check_sizes(parse(["--config", f"experiments/{name}.py"])[0], 8_000, (32, 32, 3), devices)


def test_notebook_experiments_use_the_recipe_of_the_reference():
    for name in ("mlp", "cnn", "cnn_augmented", "alexnet"):
        config, _ = parse(["--config", f"experiments/{name}.py"])
        recipe = (config.optimizer, config.learning_rate, config.batch_size, config.num_epochs, config.num_validation)
        assert recipe == ("adam", 1e-3, 32, 20.0, 5_000)
        extras = (config.schedule, config.warmup, config.weight_decay, config.label_smoothing, config.normalize)
        assert extras == ("constant", 0.0, 0.0, 0.0, False)
        assert config.dropout is None
        assert config.augment == ("shift_flip" if name in ("cnn_augmented", "alexnet") else "none")


@pytest.mark.parametrize(("field", "value"), [("dtype", "bfloat16"), ("dropout", 0.5)])
def test_setting_that_the_model_does_not_declare_is_rejected(field, value, tiny_config):
    tiny_config[field] = value
    message = f"^config.{field}: {value!r} is not valid; use its default, because the model tiny has no such setting$"
    with pytest.raises(BadInput, match=message):
        check_config(tiny_config)


@pytest.mark.parametrize("kind", ["file", "below_a_file", "damaged"])
def test_unusable_workdir_is_reported(kind, tmp_path, capsys):
    workdir = tmp_path / "runs"
    if kind == "damaged":
        workdir.mkdir()
        (workdir / "config.json").write_text("{")
    else:
        workdir.write_text("")
    chosen = workdir / "below" if kind == "below_a_file" else workdir
    assert main(["--config", "experiments/cnn.py:smoke", f"--workdir={chosen}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--workdir" in captured.err
    assert str(workdir) in captured.err


@pytest.mark.medium
def test_diverged_run_exits_with_code_1_and_names_the_step(tiny_config, tmp_path, capsys):
    fields = ["model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8", "optimizer=sgd", "learning_rate=1e30"]
    assert main([f"--workdir={tmp_path}", *(f"--config.{field}" for field in fields)]) == 1
    assert re.search(r"^diverged: the loss of step \d+ ", capsys.readouterr().err)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_variant_of_the_experiment_runs(name, tmp_path):
    code, out, err = run_main("--config", f"experiments/{name}.py:smoke", "--workdir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "test accuracy" in out
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    augmented = set() if name in ("mlp", "cnn", "cnn_finetuned") else {"augmented_images"}
    assert figures == {"training_images", "learning_curves", "predictions", "confusion_matrix"} | augmented


# the command with short chunks, each of which is reported, so that a signal can be sent within an epoch
SHORT_CHUNKS = """
import sys
from cifar_flax import main, train
from cifar_flax.reporting import console
console.LOG_EVERY = train.CHUNK_SECONDS = 0.05
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_process_interrupted_by_signals_gives_the_same_results(tmp_path):
    """Three interruptions, two of them within an epoch, do not change the results."""
    arguments = ["--config", "experiments/cnn_augmented.py:smoke", "--workdir"]
    assert run_main(*arguments, str(tmp_path / "uninterrupted"))[0] == 0
    for signal_number, remaining in ((signal.SIGTERM, 2), (signal.SIGINT, 15), (signal.SIGTERM, 1)):
        process = start([sys.executable, "-c", SHORT_CHUNKS, *arguments, str(tmp_path / "interrupted")])
        for line in process.stdout:
            remaining -= " left, " in line
            if remaining <= 0:
                break
        process.send_signal(signal_number)
        _, err = process.communicate()
        assert process.returncode == 128 + signal_number
        assert "the same command resumes" in err
    saved = {int(path.name) for path in (tmp_path / "interrupted" / "checkpoints" / "latest").iterdir()}
    assert any(step % 250 for step in saved)
    assert run_main(*arguments, str(tmp_path / "interrupted"))[0] == 0

    def results(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        test = json.loads((tmp_path / name / "run.json").read_text())["test_loss"]
        return [(line["step"], line["train_loss"], line["validation_loss"]) for line in lines], test

    assert results("uninterrupted") == results("interrupted")
