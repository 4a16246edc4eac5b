"""Kills parts of a running installation at random moments, and compares what comes out."""
