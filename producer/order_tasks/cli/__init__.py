"""The commands of producers and operators: send, status, replay, drop."""
