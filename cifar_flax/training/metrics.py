"""Sums over images: added up across batches, divided once."""

import flax.struct
import jax.numpy as jnp
import optax
from jax import Array


@flax.struct.dataclass
class Metrics:
    """The sums of a pass over images.

    Attributes:
        loss_sum: sum of the losses of all images, float32 scalar.
        num_correct: number of images whose largest logit is that of their label, int32 scalar.
        num_images: number of images, int32 scalar.
    """

    loss_sum: Array
    num_correct: Array
    num_images: Array

    @classmethod
    def zero(cls) -> "Metrics":
        return cls(loss_sum=jnp.float32(0), num_correct=jnp.int32(0), num_images=jnp.int32(0))

    @classmethod
    def from_batch(cls, losses: Array, logits: Array, labels: Array, mask: Array) -> "Metrics":
        """The sums of losses [B] float32, logits [B, K] and labels [B] int32 where mask [B] bool is True."""
        correct = (logits.argmax(-1) == labels) & mask
        return cls(
            loss_sum=jnp.where(mask, losses, 0).sum(),
            num_correct=correct.sum(dtype=jnp.int32),
            num_images=mask.sum(dtype=jnp.int32),
        )

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(
            loss_sum=self.loss_sum + other.loss_sum,
            num_correct=self.num_correct + other.num_correct,
            num_images=self.num_images + other.num_images,
        )

    def means(self) -> tuple[float, float]:
        """Mean loss in nats and accuracy in [0, 1]. Copies the sums to the host."""
        count = int(self.num_images)
        return float(self.loss_sum) / count, int(self.num_correct) / count


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Losses [B] in nats of logits [B, K] float32 with labels [B] int32.

    Label smoothing e replaces the label with (1 - e) one_hot + e / K (Szegedy et al., 2016, "Rethinking the Inception
    Architecture", section 7).
    """
    if label_smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = jnp.eye(logits.shape[-1], dtype=logits.dtype)[labels]
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, label_smoothing))
