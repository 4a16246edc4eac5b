"""What a FineTuneJob is: the types that operator, trainer and command line share.

Nothing here talks to a cluster, to storage or to a GPU. The custom resource definition, the API
reference and the chart's copies are generated from these models (`python -m finetune_api`).
"""
