"""Volume → label volume on the same voxels. `bundle`, and what it imports, does without torch."""
