"""Volume → label volume on the same voxels. Only `bundle` and `labels` may be imported without torch."""
