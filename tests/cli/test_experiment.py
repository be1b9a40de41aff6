"""`--config`: experiments by name from any folder, experiment files, and their mistakes."""

from pathlib import Path

import pytest

from cifar_flax.cli.experiment import experiments, load_experiment
from cifar_flax.errors import BadInput
from cifar_flax.main import main, parse

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.py"))
CONFIG = "from cifar_flax.config import base_config\n\ndef get_config(variant=''):\n    config = base_config()\n"
MINE = CONFIG + "    config.experiment = 'mine'\n    return config\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, which is not the project's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message_of(*arguments):
    with pytest.raises(BadInput) as error:
        parse([*arguments])
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("variant", ["", ":smoke", ":demo"])
def test_experiments_of_the_package_are_found_by_name_in_any_folder(variant, folder):
    assert list(experiments().values()) == FILES
    for file in FILES:
        config, workdir = parse(["--config", file.stem + variant])
        assert config == load_experiment(f"{file}{variant}")
        assert workdir == folder / "runs" / (file.stem + variant.replace(":", "_"))


def test_default_is_the_demo_in_any_folder(folder):
    config, workdir = parse([])
    assert (config.experiment, config.dataset) == ("cnn_augmented", "synthetic")
    assert workdir == folder / "runs" / "cnn_augmented_demo"


@pytest.mark.parametrize(
    "name", ["mine.py", "below/mine.py", "my file.py", "caf\udce9.py", "a:b.py", "mine", "a:b", "cnn"]
)
def test_file_is_loaded_as_it_is_named(name, folder):
    """Also without the ending .py, with the name of an experiment, and with bytes that are not UTF-8."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(MINE)
    for spec in (name, str(folder / name)):
        assert parse(["--config", spec])[0].experiment == "mine"
    if name != "a:b":  # the part after the first colon is a variant, unless the name is that of a file
        assert parse([f"--config={name}:short"])[1] == folder / "runs" / "mine_short"


def test_file_in_the_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    (folder / "home" / "mine.py").write_text(MINE)
    config, workdir = parse(["--config=~/mine.py", "--workdir=~/run"])
    assert (config.experiment, workdir) == ("mine", folder / "home" / "run")


@pytest.mark.parametrize(
    ("spec", "suggestion"),
    [
        ("cn", "cnn"),
        ("cn:smoke", "cnn"),
        ("CNN", "cnn"),
        ("alexnet_tuend", "alexnet_tuned"),
        ("cnn.py", "cnn"),
        ("experiments/cnn.py", "cnn"),
        ("experiments/cnn.py:smoke", "cnn"),
        ("experiments/cnn_translated", "cnn_translated"),
        ("/no/such/folder/mlp.py", "mlp"),
        ("mime.py", "mine.py"),
        ("mine", "mine.py"),
        ("below/mine", "below/mine.py"),
    ],
)
def test_unknown_experiment_is_reported_with_the_most_similar(spec, suggestion, folder):
    (folder / "below").mkdir()
    for name in ("mine.py", "below/mine.py"):
        (folder / name).write_text(MINE)
    assert message_of("--config", spec).endswith(f"; did you mean {suggestion!r}?")


@pytest.mark.parametrize(
    "spec", ["", "resnet50", ":smoke", "/", "runs", "runs/", "x" * 5_000, "a\0b", "\udce9", "~nobody/x"]
)
def test_argument_that_is_not_an_experiment_is_reported(spec, folder):
    (folder / "runs").mkdir()
    assert message_of(f"--config={spec}").startswith("--config: ")


def test_message_lists_the_experiments_if_none_is_similar():
    assert message_of("--config=zzz").endswith("; possible: " + ", ".join(file.stem for file in FILES))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("import nothing_of_that_name\n", ["line 1", "nothing_of_that_name"]),
        (CONFIG + "    config.modle = 'cnn'\n    return config\n", ["line 5: no such field 'modle'; did you mean"]),
        ("def get_config():\n    return None\n", ["NoneType"]),
        ("x = 1\n", ["get_config()"]),
        ("get_config = 1\n", ["get_config()"]),
        ("import sys\nsys.exit()\n", ["line 2", "sys.exit()"]),
        (CONFIG + "    raise SystemExit('a\\nb')\n", ["line 5", "sys.exit()"]),
        (CONFIG + "    raise ValueError('a\\nb')\n", ["line 5", "ValueError: a b"]),
        (CONFIG.replace("variant=''", "variant") + "    return config\n", ["needs a variant"]),
        ("name = 'caf\udce9'\n", ["line 1", "utf-8"]),
        ("name = '\0'\n", ["null bytes"]),
        ("from ml_collections import *\ndef get_config():\n    return FrozenConfigDict()\n", ["FrozenConfigDict"]),
    ],
)  # fmt: skip
def test_mistake_in_an_experiment_file_is_reported_with_its_line(text, words, folder):
    (folder / "mine.py").write_text(text, errors="surrogateescape")
    message = message_of("--config=mine.py")
    assert all(word in message for word in ["--config: ", "mine.py", *words]), message


def test_line_of_a_syntax_error_in_an_imported_module_is_that_of_the_import(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "imported_by_mine.py").write_text("\n\n\ndef (:\n")
    (folder / "mine.py").write_text("\nimport imported_by_mine\n")
    message = message_of("--config=mine.py")
    assert "mine.py, line 2: " in message
    assert "imported_by_mine.py, line 4" in message


def test_variant_of_a_file_without_variants_is_reported(folder):
    (folder / "mine.py").write_text(MINE.replace("variant=''", ""))
    assert parse(["--config=mine.py"])[0].experiment == "mine"
    message = message_of("--config=mine.py:smoke")
    assert "mine.py takes no variant; leave out ':smoke'" in message


def test_config_without_fields_is_reported(folder, capsys):
    (folder / "mine.py").write_text("from ml_collections import ConfigDict\nget_config = ConfigDict\n")
    assert main(["--config=mine.py"]) == 2
    assert capsys.readouterr().err.startswith("error: config.augment: missing; start an experiment from base_config()")


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="no file that cannot be read")
def test_unreadable_file_is_reported():
    assert message_of("--config=/proc/self/mem").startswith("--config: /proc/self/mem: OSError")


def test_help_shows_defaults_with_percent_signs(folder, capsys):
    (folder / "mine.py").write_text(CONFIG + "    config.dataset = '100%(x)s.npz'\n    return config\n")
    with pytest.raises(SystemExit) as exit_info:
        main(["--config=mine.py", "--help"])
    assert exit_info.value.code == 0
    assert "default: 100%(x)s.npz" in capsys.readouterr().out


@pytest.mark.parametrize("workdir", ["~nobody_of_that_name/run", "a\0b"])
def test_unusable_workdir_is_reported(workdir):
    assert message_of("--config=cnn", f"--workdir={workdir}").startswith(f"--workdir: {workdir!r}")
