"""Where arrays lie on the devices, and what the work on them costs."""
