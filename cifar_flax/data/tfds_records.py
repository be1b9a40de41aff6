"""Reads the examples of a prepared TFDS dataset in a fixed order."""

import importlib.util
from typing import Any

import numpy as np

from cifar_flax.data.dataset import Split
from cifar_flax.errors import BadInput


def read_split(tfds: Any, builder: Any, split: str, label: str) -> Split:
    """The images and labels of a split, in the authors' order if the dataset has an `id` to restore it from.

    Args:
        tfds: the module `tensorflow_datasets`.
        builder: of the prepared dataset.
        split: its name.
        label: the feature that holds the labels.

    Raises:
        BadInput: there are no images, or another package is needed to read them.
    """
    fields = [field for field in ("image", label, "id") if field in builder.info.features]
    batches = list(tfds.as_numpy(_stored(tfds, builder, split, fields).batch(1000)))
    if not batches:
        raise BadInput(f"config.dataset: {builder.info.full_name} has no images in its split {split}")
    columns = {field: np.concatenate([batch[field] for batch in batches]) for field in fields}
    order = np.argsort(columns["id"]) if "id" in columns else slice(None)
    return Split(images=columns["image"][order], labels=columns[label][order].astype(np.int32))


def _stored(tfds: Any, builder: Any, split: str, fields: list[str]) -> Any:
    """A split's examples, each with these fields, in the stored order, as a tf.data.Dataset."""
    if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
        return _array_records(tfds, builder, split, fields)
    # one shard at a time, because TFDS's interleaving would change the order
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    decoders = tfds.decode.PartialDecoding(dict.fromkeys(fields, True))
    return builder.as_dataset(split=split, shuffle_files=False, read_config=read_config, decoders=decoders)


def _array_records(tfds: Any, builder: Any, split: str, fields: list[str]) -> Any:
    """Decodes with TensorFlow, as for TFRecords, because another decoder can give other pixels for JPEG."""
    import tensorflow as tf

    if importlib.util.find_spec("array_record") is None:  # TFDS would print a banner
        raise BadInput(
            f"config.dataset: {builder.info.full_name} is prepared as array_record, which needs the package "
            "array_record; install it, or prepare the dataset as tfrecord"
        )
    raw = list(builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES))
    records = tf.data.Dataset.from_generator(lambda: raw, output_signature=tf.TensorSpec((), tf.string))
    examples = records.map(builder.info.features.deserialize_example)
    return examples.map(lambda example: {field: example[field] for field in fields})
