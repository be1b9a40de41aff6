"""CNN: three small convolutions, without augmentation.

Source:      the reference notebook, section 1.5 (one run: 67.07 % test accuracy)
Result:      73.85 ± 0.35 % test accuracy, seeds 0 to 9 (docs/results.md)
Network:     three blocks of 2x2 convolution (16, 32, 64), ReLU, 2x2 max-pool; dropout 0.3; 500; dropout 0.4; 10
Parameters:  528,054
Recipe:      Adam 1e-3, batch 32, 20 epochs; the checkpoint with the lowest validation loss is tested
Command:     python -m cifar_flax.main --config experiments/cnn.py
Smoke test:  python -m cifar_flax.main --config experiments/cnn.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "cnn"
    return with_variant(config, variant)
