"""Recipes, models, the training loop, checkpoints, scores, and what a trained model is used for.

Commands (`train.evaluate`, ...) are not imported here: `python -m` would load them twice.
"""
