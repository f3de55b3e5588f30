"""What people bring: plain Lightning code that knows nothing of this project."""
