"""The shard set on disk: names, index, manifest, writer, random-access reader.

Needs neither torch nor an image decoder. As the lowest package it also holds what every command
shares: errors with exit codes, per-machine settings, and what the machine allows. Nothing is
imported here: every command, and every process that packs, passes this way when it starts.
"""
