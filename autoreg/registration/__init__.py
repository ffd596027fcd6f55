"""The registration of one pair in memory; never touches files."""
