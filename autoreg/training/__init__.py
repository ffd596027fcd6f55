"""Training of a planned network on prepared cases."""
