"""Synthetic studies whose truth is known, for the demo, the tests and part of the training."""
