"""What a run keeps, how it goes on, and how ranks agree on it."""
