"""Models, recipes, the training loop, metrics, checkpoints, evaluation.

Commands (`train.evaluate`, ...) are not imported here: `python -m` would load them twice.
"""
