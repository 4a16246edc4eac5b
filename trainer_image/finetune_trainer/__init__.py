"""The trainer: what happens on the GPU. It never talks to Kubernetes."""
