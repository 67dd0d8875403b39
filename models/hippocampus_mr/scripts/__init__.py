"""Python helpers of the hippocampus bundle that its training configuration imports."""
