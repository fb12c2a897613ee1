"""Using a trained model: evaluation, prediction, explanation, export."""
