"""A process for each device: how ranks meet, average gradients, and go without samples."""

from lightning_app.strategies.ddp.strategy import DDPStrategy

__all__ = ["DDPStrategy"]
