"""The operator: makes the cluster hold what each FineTuneJob asks for, and writes its status."""
