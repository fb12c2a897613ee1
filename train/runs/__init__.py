"""The life of a run: its state, what it saves and logs, how it stops and goes on."""
