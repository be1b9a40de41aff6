"""Several seeds of a sweep at once: in processes of their own, or in one program."""
