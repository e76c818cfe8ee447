"""Listeners: the doors through which studies come in."""
