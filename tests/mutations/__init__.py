"""Ways to spoil valid objects, and the rule of the gate that each of them breaks."""
