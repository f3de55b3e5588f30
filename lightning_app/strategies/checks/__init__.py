"""What depends on the number of devices: it is told, or refused."""
