"""What kopf calls: start-up, login, and watch events that fill the store and the queue."""
