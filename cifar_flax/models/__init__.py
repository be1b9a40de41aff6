"""The networks by name. A new one is a file here and a line in MODELS."""

from cifar_flax.models.airbench import Airbench
from cifar_flax.models.alexnet import AlexNet
from cifar_flax.models.cnn import CNN
from cifar_flax.models.mlp import MLP

MODELS = {"mlp": MLP, "cnn": CNN, "alexnet": AlexNet, "airbench": Airbench}
