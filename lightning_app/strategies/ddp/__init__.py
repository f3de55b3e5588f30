"""A process for each device: how ranks meet, average gradients, and go without samples."""
