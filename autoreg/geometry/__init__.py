"""What space means: grids, volumes and transforms, in LPS millimetres."""
