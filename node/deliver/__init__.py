"""Destinations: the doors through which results leave."""
