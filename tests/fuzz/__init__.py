"""Hostile bytes, made by mutation from good ones: `python -m tests.fuzz --minutes 20 --seed 1`."""
