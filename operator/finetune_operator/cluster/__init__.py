"""All that speaks HTTP: the client of the API server, and Kubernetes events."""
