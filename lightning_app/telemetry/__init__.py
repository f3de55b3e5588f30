"""What a run shows of itself: console, curves, dashboard, predictions."""
