"""Models, recipes, the training loop, metrics, checkpoints, evaluation.

Commands (`train.evaluate`, ...) are not imported here: `python -m` would load them twice.
"""

import os

# Before torch is loaded: its OpenMP threads else spin while they wait for one another, and steal the
# cores of the threads that decode (docs/decisions.md has the measurement).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
