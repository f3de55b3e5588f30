"""Plain Lightning modules and data modules: nothing in them knows of devices."""
