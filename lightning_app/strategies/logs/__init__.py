"""What is logged on several processes, put together as one device would have logged it."""
