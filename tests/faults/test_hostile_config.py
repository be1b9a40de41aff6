"""Configs with arbitrary values: from a command line, an experiment file, or a stored run."""

import json
import math

import pytest
from hostile import examples
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cifar_flax import data
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.config import base_config
from cifar_flax.errors import BadInput
from cifar_flax.main import parse
from cifar_flax.training.checks import CHOICES, check_config
from cifar_flax.workdir.identity import differences

pytestmark = pytest.mark.medium

FIELDS = list(base_config())
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**400, -(10**400), 5e-324, 1e308, math.inf, math.nan, True, False]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([choice for choices in CHOICES.values() for choice in choices]),
    st.sampled_from(
        ["", "\n", "\x1b[2J", "\0", "\ud800", "None", "nan", "1e999", "x" * 10_000, "{}", "a\nb", "../../x"]
    ),
)
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=5), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3)


def config_of(changes):
    """A config with values of any type, as a stored config may have."""
    config = ConfigDict({field: value for field, value in base_config().items() if field not in changes})
    for field, value in changes.items():
        config[field] = value
    return config


def check(config):
    """A config that is not rejected has the types and ranges that all other code relies on."""
    defaults = base_config()
    for field, default in defaults.items():
        value, kind = config[field], defaults.get_type(field)
        if isinstance(default, float):
            assert isinstance(value, float | int), field
            assert math.isfinite(float(value)), field
        elif default is None:
            assert value is None or type(value) is kind, field
        else:
            assert isinstance(value, type(default)), field
        assert isinstance(value, bool) == (kind is bool and value is not None), field
    assert all(config[field] in choices for field, choices in CHOICES.items())
    assert min(config.batch_size, config.eval_batch_size) >= 1
    assert config.num_validation >= 0
    assert config.num_epochs > 0 <= config.learning_rate
    assert 0 <= config.label_smoothing < 1
    assert 0 <= config.seed < 2**32
    assert config.dataset
    json.dumps(config.to_dict(), allow_nan=False)


def checked(config):
    check_config(config)
    return config


@given(CHANGES)
@examples(0.4)
def test_arbitrary_values_are_accepted_or_rejected(watch, changes):
    config = watch(checked, config_of(changes))
    if config is None:
        assert any(f"config.{field}" in watch.error for field in changes)
    else:
        check(config)


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_checks_its_type(field, watch):
    for value in (None, True, [], {}, {"a": {"b": 1}}, math.nan, 10**400, -1, 1.5, "x\ny", "x" * 10_000, b"x"):
        config = watch(checked, config_of({field: value}))
        if config is None:
            assert f"config.{field}" in watch.error
        else:
            check(config)


ARGUMENTS = st.tuples(st.sampled_from([*FIELDS, "bach_size", ""]), TEXTS | NUMBERS.map(str)).map(
    lambda drawn: f"--config.{drawn[0]}={drawn[1]}"
)


@given(st.lists(ARGUMENTS | TEXTS.filter(lambda text: text not in ("-h", "--help")), min_size=1, max_size=3))
@examples(0.2)
def test_arbitrary_arguments_are_accepted_or_rejected(watch, arguments):
    config = watch(lambda: checked(parse(["--config=experiments/cnn.py", *arguments])[0]))
    if config is not None:
        check(config)


@given(st.sampled_from(["", "cnn:", "experiments/cnn.py:"]), TEXTS, st.sampled_from(["", ".py", ".py:", ":demo"]))
@examples(0.2)
def test_arbitrary_experiment_name_is_accepted_or_rejected(watch, beginning, text, ending):
    watch(load_experiment, beginning + text + ending)


FILE = """from cifar_flax.config import base_config


def get_config():
    config = base_config()
    nan, inf = float("nan"), float("inf")
    {lines}
    return config
"""


@given(CHANGES, st.sampled_from(["config.{} = {!r}", "config.update({}={!r})", "config.unlock().{} = {!r}"]))
@examples(0.2)
def test_experiment_file_with_arbitrary_values_is_accepted_or_rejected(watch, tmp_path_factory, changes, form):
    path = tmp_path_factory.getbasetemp() / "mine.py"
    path.write_text(FILE.format(lines="\n    ".join(form.format(*change) for change in changes.items())), "utf-8")
    config = watch(lambda: checked(load_experiment(str(path))))
    if config is not None:
        check(config)


@given(st.dictionaries(st.sampled_from([*FIELDS, "gone"]), VALUES, max_size=5))
@examples(0.1)
def test_arbitrary_stored_fields_are_compared(watch, stored):
    lines = watch(differences, stored, base_config())
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "dataset", ["~nobody_of_that_name/set.npz", "x" * 5_000 + ".npz", "x" * 5_000, "\ud800.tar.gz"]
)
def test_unusable_dataset_path_is_rejected(dataset, watch):
    config = base_config()
    config.dataset = dataset
    with pytest.raises(BadInput):  # may import TFDS, which executes code of its own
        data.read(config)
    assert watch(data.read, config) is None
    assert "config.dataset" in watch.error
