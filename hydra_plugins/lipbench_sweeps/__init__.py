"""Plugins of Hydra that run lipbench's sweeps: launchers (joblib, submitit, Ray) and a sweeper (Optuna).

Hydra imports the modules of this package whenever it starts, also for other applications of the same environment: none
of them imports lipbench or an engine before it is used.
"""
