"""The kubectl plugin: `kubectl finetune status | list | logs | wait`."""
