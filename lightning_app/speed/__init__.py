"""A shorter way of the same steps: none of it changes a number."""
