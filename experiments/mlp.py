"""MLP: the reference's feedforward network without augmentation.

Source:      the reference notebook, section 1.4 (one run: 44.22 % test accuracy)
Result:      44.54 ± 0.31 % test accuracy, seeds 0 to 4 (docs/results.md)
Network:     flatten, 1000, 512, 10; ReLU, dropout 0.2 and 0.2
Parameters:  3,590,642
Recipe:      Adam 1e-3, batch 32, 20 epochs; the checkpoint with the lowest validation loss is tested
Command:     python -m cifar_flax.main --config experiments/mlp.py
Smoke test:  python -m cifar_flax.main --config experiments/mlp.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "mlp"
    config.eval_batch_size = 1000  # so that the kernels are read less often
    return with_variant(config, variant)
