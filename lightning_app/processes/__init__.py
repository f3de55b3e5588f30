"""The processes of a run: how they start, find each other, hear signals, and end."""
