"""Questions with a table, a picture and a page of docs, and what they share (train/study.py)."""
