"""The command line: flags, experiment files, error messages, exit codes, XLA options."""

import subprocess
import sys
from pathlib import Path

import pytest
from mistakes import MISTAKES

from cifar_flax.config import base_config
from cifar_flax.main import main, parse

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_project_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_loads_with_overrides(name):
    overrides = [
        "--config.seed=7",
        "--config.num_epochs",
        "3",
        "--config.data_dir=/data",
        "--config.learning_rate=1e-2",
    ]
    config, workdir = parse(["--config", f"experiments/{name}.py", *overrides])
    assert workdir == ROOT / "runs" / name
    assert config.experiment == name
    assert (config.seed, config.num_epochs, config.data_dir, config.learning_rate) == (7, 3.0, "/data", 0.01)
    assert isinstance(config.num_epochs, float)


@pytest.mark.parametrize("variant", ["smoke", "demo"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_variant_uses_synthetic_images_and_its_own_workdir(name, variant):
    config, workdir = parse(["--config", f"experiments/{name}.py:{variant}"])
    assert workdir == ROOT / "runs" / f"{name}_{variant}"
    assert config.dataset == "synthetic"


def test_default_experiment_is_the_demo():
    config, workdir = parse([])
    assert (config.experiment, config.dataset, workdir) == (
        "cnn_augmented",
        "synthetic",
        ROOT / "runs" / "cnn_augmented_demo",
    )


def test_only_these_fields_have_no_default():
    config = base_config()
    unset = {field for field in config if config[field] is None}
    assert unset == {"data_dir", "dropout", "image_size", "init_from", "label", "stream"}
    assert config.get_type("data_dir") is str


def test_help_lists_all_config_fields(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert all(f"--config.{field}" in out for field in base_config())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_invalid_argument_exits_with_code_2_and_one_line(mistake, capsys, tmp_path):
    arguments, words = MISTAKES[mistake]
    code = main([*arguments, *([] if "--workdri" in arguments[0] else [f"--workdir={tmp_path / 'new'}"])])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flush", [True, False])
def test_closed_output_pipe_ends_the_command_quietly(flush):
    """As with `| head -1`: the pipe closes while the command still writes, or before its last lines are flushed."""
    command = f"print('first', flush=True), sys.stdin.read(), print('second', flush={flush})"
    code = (
        f"import sys; from cifar_flax.cli.commandline import exit_code; sys.exit(exit_code(lambda argv: ({command})))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
