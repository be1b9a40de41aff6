"""The comparison with float64: what was recorded, and how errors and reductions are found."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import accuracy, exactness, publish

pytestmark = pytest.mark.medium

RECORD = json.loads((publish.RESULTS / "exactness.json").read_text())
CASES = {name: case for name, case in RECORD["cases"].items() if name != exactness.REPRODUCER}


def test_all_published_experiments_are_compared():
    assert set(accuracy.load_runs(publish.RESULTS)) <= set(CASES) == {case.name for case in exactness.CASES}
    assert RECORD["dataset"] == "cifar10"


def test_published_options_show_the_fault_only_in_the_reproducer():
    errors = RECORD["cases"][exactness.REPRODUCER]["errors"]["evaluation"]
    assert errors["published"]["error"] > 0.01
    assert errors["avoiding"]["error"] < 1e-6
    for name, case in CASES.items():
        for quantity, errors in case["errors"].items():
            # a max-pooling or ReLU that decides differently makes gradients differ with and without the option
            limit = max(1e-3, 3 * errors["avoiding"]["error"])
            assert errors["published"]["error"] < limit, (name, quantity)


def test_no_published_experiment_reduces_a_product_that_is_not_stored():
    for name in accuracy.load_runs(publish.RESULTS):
        for program, computations in CASES[name]["reductions"]["published"].items():
            assert not [c for c in computations if {"dot", "convolution"} & set(c.split())], (name, program)


def test_largest_error_names_the_array():
    exact = {"gradients: a": np.array([4.0, 0.0]), "gradients: b": np.zeros(2)}
    arrays = {"gradients: a": np.array([4.0, 0.4]), "gradients: b": np.array([0.0, 0.05])}
    assert exactness.largest_error(arrays, exact, list(exact)) == {"error": pytest.approx(0.1), "array": "a"}


HLO = """
%fused (param: f32[40,3], param.1: f32[3,3]) -> f32[40] {
  %param.1 = f32[3,3]{1,0} parameter(1)
  %param = f32[40,3]{1,0} parameter(0)
  %dot.1 = f32[3,40]{1,0} dot(%param.1, %param), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %zero = f32[] constant(0)
  ROOT %sum = f32[40]{0} reduce(%dot.1, %zero), dimensions={0}, to_apply=%add
}

%other (param.2: f32[40]) -> f32[] {
  %param.2 = f32[40]{0} parameter(0)
  %zero.1 = f32[] constant(0)
  ROOT %sum.1 = f32[] reduce(%param.2, %zero.1), dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[40,3], m: f32[3,3]) -> f32[] {
  %rows = f32[40]{0} fusion(%x, %m), calls=%fused, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}
  ROOT %all = f32[] fusion(%rows), calls=%other
}
"""


def test_reductions_are_those_of_ynnpack():
    program = SimpleNamespace(as_text=lambda: HLO)
    assert exactness.reductions(program) == {"dot reduce f32[3,40]": 1}
