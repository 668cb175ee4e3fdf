"""Defines the routes, one file for each thing. Each route declares who may call it (`asker.allowed`)."""
