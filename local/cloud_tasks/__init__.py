"""Cloud Tasks on one machine: the calls, the queues with their schedule, and the dispatch of what is due."""
