"""The loop, and what happens before and after it."""
