"""Pages that show a model and a taxonomy: single HTML files that need no network."""
