"""From files to token rows: read, recognise, render, encode, split. Each step is one module."""
