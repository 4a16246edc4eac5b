"""From cluster objects, logs and termination messages to frozen facts. Pure; nothing here decides."""
