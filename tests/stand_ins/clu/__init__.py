"""Takes the place of clu, whose writers need TensorFlow."""
