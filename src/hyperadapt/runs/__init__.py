"""Runs: training one, what it leaves in its directory, and what reads that again."""
