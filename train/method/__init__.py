"""What a run computes with: model, objective, optimizer, schedule, batches."""
