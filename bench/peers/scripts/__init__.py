"""Loaders of other projects, each run by ``serve.py`` in an environment of its own.

They import the standard library, torch and their own project alone: nothing else of this one is
there. Each has ``open_loader(settings)``, which returns the epochs: a number in, the images of each
batch out, batch after batch. ``bench/peers/blocks.py`` says what the settings hold.
"""
