"""Sends a message by the means of its channel: HTTP, mail, or what Apprise knows."""
