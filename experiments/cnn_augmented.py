"""CNN with augmentation: images are randomly shifted and mirrored in each epoch.

Source:      the reference notebook, section 1.6 (one run: 74.79 % test accuracy)
Result:      73.52 ± 0.49 % test accuracy, seeds 0 to 4 (docs/results.md)
Network:     three blocks of 2x2 convolution (16, 32, 64), ReLU, 2x2 max-pool; dropout 0.3; 500; dropout 0.4; 10
Parameters:  528,054
Recipe:      Adam 1e-3, batch 32, 20 epochs, shift and flip; the checkpoint with the lowest validation loss is tested
Command:     python -m cifar_flax.main --config experiments/cnn_augmented.py
Smoke test:  python -m cifar_flax.main --config experiments/cnn_augmented.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "cnn"
    config.augment = "shift_flip"
    return with_variant(config, variant)
