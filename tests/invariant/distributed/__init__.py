"""What `test_distributed` starts with torchrun."""
