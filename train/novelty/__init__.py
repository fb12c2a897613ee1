"""Species that a model was not trained on: told apart after a few photographs, enrolled."""
