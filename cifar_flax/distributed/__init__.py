"""One run over several processes, on one machine or many.

Each process that the user starts is a supervisor (supervisor.py). It starts a process that computes (trainer.py), and
connects to the hub (hub.py), which is part of the supervisor of process 0. The hub starts the computation when all
processes have joined and agree on what to compute, passes signals on to process 0, and ends all processes when one ends
or is lost. So a process that hangs within a collective operation, or that JAX aborts, still ends with one line.

What the trainers compute together is in training/conducting.py.
"""
