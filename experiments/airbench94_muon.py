"""airbench94_muon: the network of airbench94 with Muon, in eight epochs.

Source:      Jordan, 2024, github.com/KellerJordan/cifar10-airbench, airbench94_muon.py (94.01 %, 200 runs)
Result:      93.17 ± 0.29 % test accuracy, 93.95 ± 0.18 % with test-time augmentation, seeds 0 to 4 (docs/results.md)
Network:     that of airbench94; the head starts with deviation 1 and its outputs are divided by 256
Parameters:  1,971,640, of which 288 are fixed; 2,310 statistics, of which 6 are of the inputs
Recipe:      Muon for the kernels of convolutions, SGD for the rest, batch 2000, 8 epochs, linear to zero, label
             smoothing 0.2, translation by 2 pixels and alternating flip; trained on all 50,000 images and tested after
             the last step
Command:     python -m cifar_flax.main --config experiments/airbench94_muon.py
Smoke test:  python -m cifar_flax.main --config experiments/airbench94_muon.py:smoke (synthetic images, offline)
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.config import base_config, with_variant

BATCH_SIZE = 2000


def get_config(variant: str = "") -> ConfigDict:
    config = base_config()
    config.experiment = Path(__file__).stem
    config.model = "airbench_muon"
    config.num_validation = 0
    config.normalize = True
    config.augment = "translate_flip"
    config.max_translation = 2
    config.num_epochs = 8.0
    config.batch_size = BATCH_SIZE
    config.eval_batch_size = 1000  # the convolutions split it into smaller chunks
    config.optimizer = "muon"
    config.momentum = 0.6
    config.learning_rate = 0.24
    config.sgd_momentum = 0.85
    # the author's rates are for the sum of the losses of a batch, ours for their mean
    config.bias_learning_rate = 0.053 * BATCH_SIZE
    config.dense_learning_rate = 0.67 * BATCH_SIZE
    config.schedule = "linear"
    config.weight_decay = 2e-6 * BATCH_SIZE
    config.whitening_epochs = 3.0
    config.label_smoothing = 0.2
    config.tta = "mirror_translate"
    return with_variant(config, variant, smoke_epochs=0.25)
