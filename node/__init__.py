"""Sightline: a PACS-integrated AI node."""

__version__ = "0.1.0"
