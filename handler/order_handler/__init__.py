"""The service behind the queue: runs the orders that Cloud Tasks delivers and answers done, never or not yet."""
