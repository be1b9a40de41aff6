"""XLA's options are known to the installed jaxlib, do what they are set for, and sums are right with them."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import run

from cifar_flax.errors import BadInput
from cifar_flax.ops import xla_options

FAULTY, OTHER = "0.10.2", "0.10.1"


def write_bytes(content):
    return lambda path: path.write_bytes(content)


@pytest.fixture
def choose(monkeypatch):
    """Calls `choose_options` under a version of jaxlib and a value of XLA_FLAGS; returns the options then."""

    def chosen(jaxlib, flags=None):
        monkeypatch.setattr(xla_options, "_jaxlib", lambda: jaxlib)
        monkeypatch.setenv("XLA_FLAGS", flags or "")
        xla_options.choose_options()
        return os.environ["XLA_FLAGS"].split()

    return chosen


def test_options_depend_on_jaxlib(choose):
    assert choose(FAULTY) == [xla_options.ONE_PASS, xla_options.XLA_SUMS]
    assert choose(OTHER) == [xla_options.ONE_PASS]


def test_options_of_the_user_are_kept(choose):
    assert choose(OTHER, "--xla_dump_to=somewhere") == [xla_options.ONE_PASS, "--xla_dump_to=somewhere"]
    for user in ("--xla_backend_extra_options=a", "--xla_cpu_experimental_ynn_fusion_type=dot"):
        chosen = choose(FAULTY, user)
        assert chosen[-1] == user
        assert len({option.partition("=")[0] for option in chosen}) == len(chosen) == 2


def test_options_are_chosen_once(choose):
    assert choose(FAULTY, " ".join(choose(FAULTY))) == choose(FAULTY)


def test_file_is_replaced_by_its_options(choose, tmp_path):
    (tmp_path / "flags").write_text("--xla_dump_to=somewhere\n  --xla_cpu_max_isa=AVX2\n")
    user = ["--xla_dump_to=somewhere", "--xla_cpu_max_isa=AVX2"]
    assert choose(FAULTY, str(tmp_path / "flags")) == [xla_options.ONE_PASS, xla_options.XLA_SUMS, *user]


def test_options_that_xla_ignores_do_not_count(choose, tmp_path):
    """XLA reads no option after a word that is not one, such as a comment."""
    (tmp_path / "flags").write_text(f"# {xla_options.XLA_SUMS}\n")
    for flags in (f"--xla_cpu_max_isa=AVX2 # {xla_options.XLA_SUMS}", str(tmp_path / "flags")):
        assert choose(FAULTY, flags)[:2] == [xla_options.ONE_PASS, xla_options.XLA_SUMS]


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo, *map(write_bytes, (b"\xff\xfe", b"-a\0"))])
def test_anything_else_is_refused(choose, tmp_path, make):
    path = tmp_path / "flags"
    make(path)
    with pytest.raises(BadInput, match=r"XLA_FLAGS: .* is neither options"):
        choose(OTHER, str(path))


@pytest.mark.parametrize(
    ("jaxlib", "flags", "faulty"),
    [
        (FAULTY, "", True),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=+eltwise", True),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=dot,reduce", True),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=dot", False),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=-reduce", False),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=-dot,-reduce", False),
        (FAULTY, "--xla_cpu_experimental_ynn_fusion_type=", False),
        (FAULTY, '--xla_cpu_experimental_ynn_fusion_type="dot,LIBRARY_FUSION_TYPE_REDUCE"', True),
        (FAULTY, f"{xla_options.XLA_SUMS} --xla_cpu_experimental_ynn_fusion_type=+dot", False),
        (FAULTY, f"{xla_options.XLA_SUMS} --xla_cpu_experimental_ynn_fusion_type=+reduce", True),
        (OTHER, "", False),
    ],
)
def test_faulty_sums_are_one_warning(choose, monkeypatch, capsys, jaxlib, flags, faulty):
    choose(jaxlib)
    monkeypatch.setenv("XLA_FLAGS", flags)
    xla_options.warn_of_faulty_sums.cache_clear()
    for _ in range(2):
        xla_options.warn_of_faulty_sums()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == faulty
    assert all("jaxlib 0.10.2 may return wrong sums" in line for line in lines)


@pytest.mark.parametrize(
    ("jaxlib", "flags", "platform", "chosen"),
    [
        (FAULTY, "", "cpu", True),
        (FAULTY, xla_options.XLA_SUMS, "cpu", True),  # what `choose_options` has set
        (FAULTY, f"{xla_options.YNN_FUSION_TYPE}=dot", "cpu", False),
        (FAULTY, f"{xla_options.XLA_SUMS} {xla_options.YNN_FUSION_TYPE}=+dot", "cpu", False),
        (FAULTY, "", "gpu", False),
        ("0.99.0", "", "cpu", False),
    ],
)
def test_options_of_evaluation_leave_the_users_choice(monkeypatch, jaxlib, flags, platform, chosen):
    monkeypatch.setattr(xla_options, "_jaxlib", lambda: jaxlib)
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert bool(xla_options.evaluation_options(platform)) == chosen


def test_evaluation_is_compiled_without_ynnpack():
    options = xla_options.evaluation_options("cpu")
    product = jax.jit(lambda x, y: jnp.tanh(x @ y), compiler_options=options)
    text = product.lower(jnp.ones((200, 512)), jnp.ones((512, 512))).compile().as_text()
    assert (options is None) or "ynn_fusion" not in text


@pytest.mark.medium
def test_installed_jaxlib_knows_the_options():
    """XLA ends the process at an unknown option in XLA_FLAGS."""
    options = os.environ["XLA_FLAGS"]  # set by conftest.py as by the commands
    code, _, err = run([sys.executable, "-c", "import jax; jax.devices()"], variables={"XLA_FLAGS": options})
    assert code == 0, err


def sum_of_squared_products(matrix, rows):
    """The reproducer of jax issue 39103; `matrix` [C, C], `rows` [N, C] -> [N]."""
    return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_rows", [100, 32_769])
def test_sums_are_right(num_channels, num_rows):
    rng = np.random.default_rng(0)
    matrix, rows = rng.normal(size=(num_channels, num_channels)), rng.normal(size=(num_rows, num_channels))
    expected = ((rows @ matrix.T) ** 2).sum(axis=1)  # float64
    computed = jax.jit(sum_of_squared_products)(matrix.astype(np.float32), rows.astype(np.float32))
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [8, 60])
def test_sums_over_a_batch_of_products_are_right(size):
    """Jaxlib up to 0.12.0.1 returns values from anywhere in memory, if YNNPACK sums."""
    a = np.random.default_rng(0).normal(size=(5, size, size))
    computed = jax.jit(lambda a: jnp.sum((a @ jnp.full_like(a, 0.5)) * a, axis=-1))(a.astype(np.float32))
    np.testing.assert_allclose(computed, ((a @ np.full_like(a, 0.5)) * a).sum(axis=-1), rtol=1e-4, atol=1e-3)


def test_sums_over_arrays_of_many_axes_are_right():
    """The reproducer of jax issue 40412, which ended the process."""
    a, b = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
    computed = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
    np.testing.assert_allclose(computed, (a.astype(float) * b).sum(axis=3), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(xla_options._jaxlib() not in xla_options.FAULTY_SUMS, reason="the option is not set")
def test_sums_are_left_to_xla():
    rows = np.ones((32_769, 3), np.float32)
    program = jax.jit(lambda a, b: (a * b).sum(axis=1)).lower(rows, rows).compile().as_text()
    assert "reduce(" in program
    assert "__ynn_fusion" not in program
