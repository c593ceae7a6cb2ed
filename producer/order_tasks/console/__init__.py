"""The operator's page: `python -m order_tasks console`."""
