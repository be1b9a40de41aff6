"""A run on disk: its records, checkpoints and TensorBoard events."""
