"""Experiments: many runs of one program, several side by side, and what they came to in one table.

A file says what is varied (``settings``). Which trials there are, and which are due next, are pure
functions of it and of what has ended so far (``space``, ``rungs``), and so is how many there is
room for (``capacity``). ``runner`` starts each as ``train`` in a process (``processes``) and a
folder of its own (``records``); ``results`` and ``page`` tell how they compare.
"""

from orchestrator.experiment.runner import Experiment, train_command
from orchestrator.experiment.settings import ExperimentSettings, load_experiment

__all__ = ["Experiment", "ExperimentSettings", "load_experiment", "train_command"]
