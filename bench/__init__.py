"""Measurements of everything else: loaders, step, both together, beside the published table.

Nothing imports this package. A figure is measured here and now, with its repeats and spread, or it
is marked as not measured.
"""
