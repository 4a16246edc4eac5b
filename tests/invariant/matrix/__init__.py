"""The compatibility table against the truth: every cell of its page is run with the real libraries."""
