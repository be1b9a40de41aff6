"""The command line: what it makes of its arguments, and one line with exit code 2 for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_flax.cli.commandline import choose_xla_options
from cifar_flax.config import base_config, validate, validate_sizes
from cifar_flax.errors import BadInput
from cifar_flax.main import main, parse

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def start(words):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def finished(*arguments):
    """The command's exit code, output and errors."""
    process = start([sys.executable, "-m", "cifar_flax.main", *arguments])
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_loads_and_takes_overrides(name):
    overrides = [
        "--config.seed=7",
        "--config.num_epochs",
        "3",
        "--config.data_dir=/data",
        "--config.learning_rate=1e-2",
    ]
    config, workdir = parse(["--config", f"experiments/{name}.py", *overrides])
    assert workdir == Path("runs", name)
    assert config.experiment == name
    assert (config.seed, config.num_epochs, config.data_dir, config.learning_rate) == (7, 3.0, "/data", 0.01)
    assert isinstance(config.num_epochs, float)


@pytest.mark.parametrize("variant", ["smoke", "demo"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_variants_are_synthetic_and_have_a_folder_of_their_own(name, variant):
    config, workdir = parse(["--config", f"experiments/{name}.py:{variant}"])
    assert workdir == Path("runs", f"{name}_{variant}")
    assert config.dataset == "synthetic"


def test_without_arguments_it_is_the_demo():
    config, workdir = parse([])
    assert (config.experiment, config.dataset, workdir) == (
        "cnn_augmented",
        "synthetic",
        Path("runs/cnn_augmented_demo"),
    )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_every_experiment_fits_the_usual_numbers_of_devices(devices):
    for name in EXPERIMENTS:
        validate_sizes(parse(["--config", f"experiments/{name}.py"])[0], 8_000, (32, 32, 3), devices)


def test_the_reference_recipe():
    for name in ("mlp", "cnn", "cnn_augmented", "alexnet"):
        config, _ = parse(["--config", f"experiments/{name}.py"])
        recipe = (config.optimizer, config.learning_rate, config.batch_size, config.num_epochs, config.num_validation)
        assert recipe == ("adam", 1e-3, 32, 20.0, 5_000)
        beyond = (config.schedule, config.warmup, config.weight_decay, config.label_smoothing, config.normalize)
        assert beyond == ("constant", 0.0, 0.0, 0.0, False)
        assert config.dropout is None
        assert config.augment == ("shift_flip" if name in ("cnn_augmented", "alexnet") else "none")


def test_no_field_is_none_but_a_placeholder():
    config = base_config()
    assert [field for field in config if config[field] is None] == ["data_dir", "dropout"]
    assert config.get_type("data_dir") is str


# arguments, and what the one line has to say
MISTAKES = {
    "unknown_file": (["--config", "experiments/cn.py"], ["experiments/cn.py", "did you mean 'experiments/cnn.py'"]),
    "no_file": (["--config"], ["--config", "expected one argument"]),
    "empty_file": (["--config="], ["--config", "experiment file"]),
    "unknown_variant": (["--config", "experiments/cnn.py:smok"], ["smok", "smoke"]),
    "unknown_field": (["--config.bach_size=3"], ["--config.bach_size", "--config.batch_size"]),
    "unknown_flag": (["--workdri=x"], ["--workdri", "--workdir"]),
    "stray": (["stray"], ["stray"]),
    "wrong_type": (["--config.batch_size=many"], ["--config.batch_size", "many"]),
    "not_whole": (["--config.batch_size=1.5"], ["--config.batch_size", "1.5"]),
    "model": (["--config.model=cn"], ["config.model", "'cn'", "'cnn'"]),
    "optimizer": (["--config.optimizer=x"], ["config.optimizer", "'x'", "adam, rmsprop, sgd"]),
    "schedule": (["--config.schedule=cosin"], ["config.schedule", "'cosine'"]),
    "augment": (["--config.augment=flip"], ["config.augment", "shift_flip"]),
    "lowering": (["--config.lowering=x"], ["config.lowering", "patches"]),
    "dtype": (["--config.dtype=float16"], ["config.dtype", "bfloat16"]),
    "neither_true_nor_false": (["--config.normalize=maybe"], ["--config.normalize", "'maybe'"]),
    "dropout": (["--config.dropout=1"], ["config.dropout", "1", "below 1"]),
    "momentum": (["--config.momentum=1"], ["config.momentum", "1", "below 1"]),
    "average": (["--config.average_every=-5"], ["config.average_every", "-5"]),
    "warmup": (["--config.warmup=1.5"], ["config.warmup", "1.5", "from 0 to 1"]),
    "translation": (
        ["--config.augment=translate_flip", "--config.max_translation=32"],
        ["config.max_translation", "32", "at most 31"],
    ),
    "batch_size": (["--config.batch_size=0"], ["config.batch_size", "0", "from 1"]),
    "large_batch": (["--config.batch_size=8001"], ["config.batch_size", "8001", "8000"]),
    "epochs": (["--config.num_epochs=-1"], ["config.num_epochs", "-1"]),
    "negative_rate": (["--config.learning_rate=-0.1"], ["config.learning_rate", "-0.1"]),
    "nan_rate": (["--config.learning_rate=nan"], ["config.learning_rate", "nan"]),
    "infinite_rate": (["--config.learning_rate=inf"], ["config.learning_rate", "inf"]),
    "smoothing": (["--config.label_smoothing=1"], ["config.label_smoothing", "1"]),
    "seed": (["--config.seed=-1"], ["config.seed", "-1"]),
    "dataset": (["--config.dataset="], ["config.dataset", "synthetic"]),
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("normalize", True), ("dropout", 0.5)])
def test_a_setting_that_the_network_does_not_have_is_a_mistake(field, value, tiny_config):
    tiny_config[field] = value
    with pytest.raises(
        BadInput, match=f"^config.{field}: {value} is not possible; .* network tiny has no such setting"
    ):
        validate(tiny_config)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, capsys, tmp_path):
    arguments, words = MISTAKES[mistake]
    code = main([*arguments, *([] if "--workdri" in arguments[0] else [f"--workdir={tmp_path / 'new'}"])])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("import nothing_of_that_name\n", ["line 1", "nothing_of_that_name"]),
        ("from cifar_flax.config import base_config\n\ndef get_config():\n    config = base_config()\n"
         "    config.modle = 'cnn'\n    return config\n", ["line 5", "modle", "model"]),
        ("def get_config():\n    return None\n", ["NoneType"]),
        ("x = 1\n", ["get_config"]),
    ],
)  # fmt: skip
def test_an_error_in_an_experiment_file_is_named_with_its_line(text, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(BadInput) as mistake:
        parse(["--config", str(file)])
    assert "\n" not in str(mistake.value)
    assert all(word in str(mistake.value) for word in ["mine.py", *words]), mistake.value


@pytest.mark.parametrize("kind", ["file", "below_a_file", "damaged"])
def test_a_workdir_that_cannot_be_used_is_named(kind, tmp_path, capsys):
    workdir = tmp_path / "runs"
    if kind == "damaged":
        workdir.mkdir()
        (workdir / "config.json").write_text("{")
    else:
        workdir.write_text("")
    used = workdir / "below" if kind == "below_a_file" else workdir
    assert main(["--config", "experiments/cnn.py:smoke", f"--workdir={used}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--workdir" in captured.err
    assert str(workdir) in captured.err


def test_a_run_that_diverges_exits_with_1_and_names_the_step(tiny_config, tmp_path, capsys):
    fields = ["model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8", "optimizer=sgd", "learning_rate=1e30"]
    assert main([f"--workdir={tmp_path}", *(f"--config.{field}" for field in fields)]) == 1
    assert re.search(r"^diverged: the loss of step \d+ ", capsys.readouterr().err)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(f"--config.{field}" in out for field in base_config())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_as_smoke(name, tmp_path):
    code, out, err = finished("--config", f"experiments/{name}.py:smoke", "--workdir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "test accuracy" in out
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    augmented = set() if name in ("mlp", "cnn") else {"augmented_images"}
    assert figures == {"training_images", "learning_curves", "predictions", "confusion_matrix"} | augmented


# the command with short pieces that are all reported, so that a signal can be sent within an epoch
OFTEN = """
import sys
from cifar_flax import console, main, train
console.LOG_EVERY = train.PIECE_SECONDS = 0.05
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_costs_nothing(number, tmp_path):
    """Three interruptions, the first two within an epoch, and the numbers of a run that nobody disturbed."""
    arguments = ["--config", "experiments/cnn_augmented.py:smoke", "--workdir"]
    assert finished(*arguments, str(tmp_path / "straight"))[0] == 0
    for reports in (2, 15, 1):
        process = start([sys.executable, "-c", OFTEN, *arguments, str(tmp_path / "disturbed")])
        for line in process.stdout:
            reports -= " left, " in line
            if reports <= 0:
                break
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == 128 + number
        assert "the same command goes on" in err
    saved = {int(path.name) for path in (tmp_path / "disturbed" / "checkpoints" / "latest").iterdir()}
    assert any(step % 250 for step in saved)
    assert finished(*arguments, str(tmp_path / "disturbed"))[0] == 0

    def numbers(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        test = json.loads((tmp_path / name / "run.json").read_text())["test_loss"]
        return [(line["step"], line["train_loss"], line["validation_loss"]) for line in lines], test

    assert numbers("straight") == numbers("disturbed")


def test_the_commands_choose_options_of_xla_and_leave_the_users(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    choose_xla_options()
    chosen = os.environ["XLA_FLAGS"].split()
    assert chosen[0] == "--xla_dump_to=somewhere"
    assert len(chosen) == 2
    for kept in (os.environ["XLA_FLAGS"], "--xla_backend_extra_options=xla_cpu_disable_slp_vectorizer"):
        monkeypatch.setenv("XLA_FLAGS", kept)
        choose_xla_options()
        assert os.environ["XLA_FLAGS"] == kept
