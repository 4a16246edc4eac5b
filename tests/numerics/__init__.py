"""The numerics table: errors of our operations and of PyTorch's, both against float64."""
