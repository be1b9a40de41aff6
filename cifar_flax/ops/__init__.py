"""How convolutions and poolings are computed."""
