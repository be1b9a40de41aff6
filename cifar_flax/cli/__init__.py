"""What the commands share: exit codes, flags and experiment files."""
