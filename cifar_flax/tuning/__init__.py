"""A search for better values of a config's fields. Needs the packages of `pip install 'cifar_flax[tune]'`."""

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print a line for each study and trial
