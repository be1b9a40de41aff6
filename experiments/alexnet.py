"""AlexNet for small images: five convolutions, BatchNorm and augmentation.

Source:      the reference notebook, section 1.7 (one run: 76.84 % test accuracy)
Result:      77.69 ± 0.89 % test accuracy, seeds 0 to 4 (docs/results.md)
Network:     convolutions (96, 256, 384, 384, 256); three max-pools with BatchNorm; 4096, 4096, dropout 0.4 each; 10
Parameters:  21,591,114 trainable and 1,216 running statistics
Recipe:      Adam 1e-3, batch 32, 20 epochs, shift and flip; the checkpoint with the lowest validation loss is tested
Command:     python -m cifar_flax.main --config experiments/alexnet.py
Smoke test:  python -m cifar_flax.main --config experiments/alexnet.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "alexnet"
    config.augment = "shift_flip"
    # a full epoch of the synthetic images takes about a minute on two cores
    return with_variant(config, variant, smoke_epochs=0.1)
