"""Tells people outside: channels that admins name, the texts of notices, what sends them, and rules that watch."""
