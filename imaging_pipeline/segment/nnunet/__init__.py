"""An exported nnU-Net v2 model folder, opened and run without nnU-Net. Only `plans` may be imported without torch."""
