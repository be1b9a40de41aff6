"""CIFAR-10 image classification in JAX and Flax. Import the module you need; nothing is re-exported here."""
