"""Studies: questions with a table, a picture and a page of docs; each module is one (train/study.py)."""
