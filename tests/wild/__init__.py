"""Models, data and callbacks as people write them, on every layout.

`users/` is what people bring: plain Lightning, not one import of ours. `cases*.py` say how each is
run and what is right; `recording.py` runs one and keeps what it ended with; `processes.py` has the
processes for that; `comparing.py` holds two of them against each other.
"""
