"""Species beyond those a model was trained on: told apart from few photographs, enrolled, recognised as unknown."""
