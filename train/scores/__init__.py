"""From outputs to scores: metrics, intervals, taxonomy, calibration."""
