"""Pure torch numerics in voxel units: sampling, composition, inversion, Jacobians."""
