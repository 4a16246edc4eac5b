"""Our trainer against the libraries' own trainers, loss by loss; run by `make parity` and by a test."""
