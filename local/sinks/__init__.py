"""What the handler's effects reach: a mail server, a warehouse and a database."""
