"""All fields of a run, with their defaults and meanings.

Experiment files start from `base_config()` and change fields; `--config.FIELD=VALUE` overrides them.
"""

from ml_collections import ConfigDict, config_dict

from cifar_flax.errors import BadInput


def base_config() -> ConfigDict:
    """The recipe of the reference notebook (section 1.5), locked: an unknown field is an error."""
    config = ConfigDict()

    # Name of the run and of its default folder: the stem of the experiment file.
    config.experiment = "base"

    # Data.
    # `synthetic`, the name of a TFDS image-classification dataset, or a path: a folder of pictures, .npz, .parquet, or
    # CIFAR-10 or CIFAR-100 as published.
    config.dataset = "cifar10"
    # Folder of prepared TFDS datasets. Unset: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    config.data_dir = config_dict.placeholder(str)
    # Height and width in pixels of the images of a folder or .parquet: the short side is resized to it, and the center
    # is kept. Unset: the size of the pictures, which must then be the same.
    config.image_size = config_dict.placeholder(int)
    # Which labels of a dataset with several: fine or coarse for CIFAR-100, a column of a .parquet. Unset: the main one.
    config.label = config_dict.placeholder(str)
    # Fraction of the images of each class to test on, if the dataset has no test split, in [0, 1).
    config.test_share = 0.0
    # Number of validation images, taken from the front of the training set; `synthetic` has at most 1,000. 0: none.
    config.num_validation = 5_000

    # Model.
    # mlp, cnn, alexnet, airbench or airbench_muon.
    config.model = "cnn"
    # dtype of the computation, float32 or bfloat16. Parameters are always float32.
    config.dtype = "float32"
    # How convolutions are computed: library (XLA), patches (im2col), winograd, or auto (library; on CPUs by model).
    config.lowering = "auto"
    # Whether images are standardized with the per-channel mean and standard deviation of the training images.
    config.normalize = False
    # Rate of all dropout layers, in [0, 1). Unset: each layer's default.
    config.dropout = config_dict.placeholder(float)

    # Start.
    # A run's workdir, or a file of exported weights, whose parameters and statistics the run starts from. Unset: random
    # ones. The head begins anew unless the classes are the same, as does each layer of another shape.
    config.init_from = config_dict.placeholder(str)
    # Number of epochs in which only the parameters that begin anew are trained. BatchNorm's running statistics follow
    # the new images all the time. 0: none.
    config.frozen_epochs = 0.0

    # Length, batches and augmentation.
    # Passes over the training images; may be fractional.
    config.num_epochs = 20.0
    # Epochs in a row without a lower validation loss after which the run ends early. 0: it never does.
    config.patience = 0
    # Images per training step, over all devices. Each epoch drops its last partial batch.
    config.batch_size = 32
    # Images per evaluation step, over all devices.
    config.eval_batch_size = 400
    # Test-time augmentation, reported in addition to the plain result: none or mirror_translate (training/tta.py).
    config.tta = "none"
    # Augmentation of training images: none, shift_flip or translate_flip (training/augment.py).
    config.augment = "none"
    # Largest translation of translate_flip, in pixels.
    config.max_translation = 4

    # Optimizer.
    # adam or rmsprop (both with Keras' epsilon, 1e-7), sgd with Nesterov momentum, or muon, which trains the kernels of
    # convolutions and leaves biases and dense kernels to sgd.
    config.optimizer = "adam"
    # Momentum of sgd or muon, in [0, 1).
    config.momentum = 0.9
    # Peak learning rate.
    config.learning_rate = 1e-3
    # Beside muon: momentum of sgd, in [0, 1), and its peak learning rates for biases and for dense kernels.
    config.sgd_momentum = 0.9
    config.bias_learning_rate = 0.1
    config.dense_learning_rate = 0.1
    # Schedule of the learning rate after the warm-up: constant, cosine or linear.
    config.schedule = "constant"
    # Fraction of the steps over which the learning rate rises linearly, in [0, 1].
    config.warmup = 0.0
    # Learning rate at the first step of the warm-up, as a multiple of the peak.
    config.start_scale = 0.0
    # Learning rate at the end of a cosine or linear schedule, as a multiple of the peak.
    config.end_scale = 0.0
    # Weight decay per step, times the learning rate: decoupled and for kernels only; for sgd, L2 on all parameters.
    # Beside muon, it is times the learning rate's fraction of its peak, for biases and dense kernels only.
    config.weight_decay = 0.0
    # Learning rate of BatchNorm biases, as a multiple of the others'.
    config.norm_bias_scale = 1.0
    # Number of epochs in which the bias of a whitening layer is trained. 0: all.
    config.whitening_epochs = 0.0
    # Steps between two updates of the averaged weights (training/averaging.py). 0: no averaging.
    config.average_every = 0
    # Decay of the averaged weights per step, reached at the end of the run, in [0, 1).
    config.average_decay = 0.95
    # Label smoothing of the training loss, in [0, 1).
    config.label_smoothing = 0.0

    # Run.
    # Whether the images stay on the host and only those of the next steps are sent to the device. Unset: if they would
    # take more than half of the device's memory. The numbers are the same.
    config.stream = config_dict.placeholder(bool)
    # Seconds of training between two checkpoints within an epoch; the end of an epoch is always saved.
    config.save_seconds = 600.0
    # Seed of initialization, data order, augmentation and dropout.
    config.seed = 0
    return config.lock()


def with_variant(config: ConfigDict, variant: str, smoke_epochs: float = 2.0) -> ConfigDict:
    """Applies the variant of `--config file.py:variant`.

    Args:
        config: an experiment's config; changed in place.
        variant: "" for no change, "demo" for a first run on synthetic images, "smoke" for a check that all works.
        smoke_epochs: epochs of "smoke", chosen to stay under a minute on two CPU cores.

    Raises:
        BadInput: another variant.
    """
    if variant not in ("", "demo", "smoke"):
        raise BadInput(f"--config: {config.experiment}.py has no variant {variant!r}; there are 'demo' and 'smoke'")
    if variant:
        config.dataset = "synthetic"
        config.num_epochs = 15.0 if variant == "demo" else smoke_epochs
    return config
