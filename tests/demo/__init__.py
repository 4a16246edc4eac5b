"""`make demo`: one FineTuneJob from apply to answers, on a cluster of this machine."""
