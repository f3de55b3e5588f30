"""What a global batch is, and which part of it is whose."""
