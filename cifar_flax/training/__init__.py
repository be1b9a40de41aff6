"""What a run computes. Nothing here opens a file."""
