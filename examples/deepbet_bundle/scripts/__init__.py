"""What the deepbet bundle needs beyond MONAI: networks out of the installed package, and deepbet's first stage."""
