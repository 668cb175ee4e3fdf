"""What runs in each system's own environment: its tasks, and the link by which the script feeds and asks it."""
