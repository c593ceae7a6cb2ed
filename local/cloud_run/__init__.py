"""Cloud Run on one machine: the front door of the service and the instances behind it."""
