"""CNN with augmentation by whole pixels: without the interpolation of the reference's augmentation.

Source:      the network and recipe of experiments/cnn_augmented.py, with another augmentation (docs/results.md)
Result:      75.42 ± 0.33 % test accuracy, seeds 0 to 4 (docs/results.md)
Network:     three blocks of 2x2 convolution (16, 32, 64), ReLU, 2x2 max-pool; dropout 0.3; 500; dropout 0.4; 10
Parameters:  528,054
Recipe:      Adam 1e-3, batch 32, 20 epochs, translation by up to 3 whole pixels and alternating flip; the
             checkpoint with the lowest validation loss is tested
Command:     python -m cifar_flax.main --config experiments/cnn_translated.py
Smoke test:  python -m cifar_flax.main --config experiments/cnn_translated.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "cnn"
    config.augment = "translate_flip"
    config.max_translation = 3  # of 32 pixels: a tenth of the side, as in the reference
    return with_variant(config, variant)
