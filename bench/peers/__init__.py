"""What runs in the environment of each system: its task, and its producer."""
