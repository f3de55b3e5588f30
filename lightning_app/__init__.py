"""One training run, placed on any devices: the same numbers, and every split in sight."""
