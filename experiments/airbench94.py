"""airbench94: whitening, identity initialization, alternating flip and weight averaging, in ten epochs.

Source:      Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), airbench94
Result:      93.24 ± 0.12 % test accuracy, 93.93 ± 0.09 % with test-time augmentation, seeds 0 to 2 (docs/results.md)
Network:     2x2 whitening convolution (24); three groups of two 3x3 convolutions, BatchNorm (64, 256, 256); GELU; 10
Parameters:  1,971,640, of which 288 are fixed; 2,310 statistics, of which 6 are of the inputs
Recipe:      SGD with Nesterov momentum 0.85, batch 1024, 9.9 epochs, label smoothing 0.2, translation by 2 pixels and
             alternating flip; trained on all 50,000 images and tested after the last step
Command:     python -m cifar_flax.main --config experiments/airbench94.py
Smoke test:  python -m cifar_flax.main --config experiments/airbench94.py:smoke      (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant

# Nesterov momentum scales a step by 1 + 1 / (1 - momentum), and the paper divides its rates by that. Its rates are for
# the sum of the losses of 1,024 images. Our loss is the mean over as many, so there is no other factor.
NESTEROV_SCALE = 1 + 1 / (1 - 0.85)
LEARNING_RATE = 11.5 / NESTEROV_SCALE
DECAY = 0.0153 / NESTEROV_SCALE


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "airbench"
    config.num_validation = 0
    config.normalize = True
    config.augment = "translate_flip"
    config.max_translation = 2
    config.num_epochs = 9.9
    config.batch_size = 1024
    config.eval_batch_size = 1000  # the convolutions split it into smaller chunks
    config.optimizer = "sgd"
    config.momentum = 0.85
    config.learning_rate = LEARNING_RATE
    config.schedule = "linear"
    config.warmup = 0.23
    config.start_scale = 0.2
    config.end_scale = 0.07
    config.weight_decay = DECAY / LEARNING_RATE
    config.norm_bias_scale = 64.0
    config.whitening_epochs = 3.0
    config.average_every = 5
    config.average_decay = 0.95
    config.label_smoothing = 0.2
    config.tta = "mirror_translate"
    return with_variant(config, variant, smoke_epochs=0.25)
