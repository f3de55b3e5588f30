"""Side-by-side timings: each module is one command that prints one table."""
