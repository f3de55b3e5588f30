"""One rank's view of a user's loader: its order, its position, its part of each batch."""
