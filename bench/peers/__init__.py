"""Loaders of other projects beside ours; ``docs/peers.md`` says how each is run."""
