"""The mail server, the warehouse and the database that the handler's effects reach."""
