"""The service behind the queue: it runs the orders that Cloud Tasks delivers, and answers whether to retry."""
