"""From facts to what the cluster should hold: manifests, the next step, the status. Pure."""
