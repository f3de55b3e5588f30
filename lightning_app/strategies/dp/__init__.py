"""Replicas in one process: what they are, and what is given to them and taken from them."""

from lightning_app.strategies.dp.strategy import DataParallelStrategy

__all__ = ["DataParallelStrategy"]
