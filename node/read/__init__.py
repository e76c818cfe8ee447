"""A series becomes attributes and pixels: right, or refused with a reason."""
