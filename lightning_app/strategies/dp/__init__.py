"""Replicas in one process: what they are, and what is given to them and taken from them."""
