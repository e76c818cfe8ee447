"""The values that pass between stages: frozen, and built valid or not at all."""
