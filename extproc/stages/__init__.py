"""The decisions of a call: pure functions, no clock, no I/O. `pipeline.py` calls them in order."""
