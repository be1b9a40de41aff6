"""The CNN on five classes of one's own with ten pictures each, from its weights on the synthetic images.

Source:      fine-tuning with a frozen body; the recipe was chosen on other pictures (docs/weights.md)
Result:      74.16 ± 1.29 % test accuracy, 37.42 ± 8.13 % from random weights, seeds 0 to 4 (docs/weights.md)
Network:     three blocks of 2x2 convolution (16, 32, 64), ReLU, 2x2 max-pool; dropout 0.3; 500; dropout 0.4; 5
Parameters:  525,549, of which 2,505 begin anew and are trained
Recipe:      Adam 1e-3, batch 8, 100 epochs, all but the output layer frozen; trained on all 50 pictures and tested
             after the last step
Command:     python -m cifar_flax.main --config experiments/cnn.py:demo
             python -m benchmarks.fine_tuning --write runs/five_shapes
             python -m cifar_flax.main --config experiments/cnn_finetuned.py
Smoke test:  python -m cifar_flax.main --config experiments/cnn_finetuned.py:smoke
             (synthetic images, offline, from random weights)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "cnn"
    config.dataset = "runs/five_shapes"
    config.num_validation = 0  # 50 pictures are too few to set some aside
    config.batch_size = 8
    config.num_epochs = 100.0
    if not variant:  # the variants need no other run
        config.init_from = "runs/cnn_demo"
        config.frozen_epochs = 100.0
    return with_variant(config, variant)
