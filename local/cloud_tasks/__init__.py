"""Cloud Tasks on one machine. The way of a task through it:

A call (calls.py) comes in over gRPC (api.py) or REST (rest.py, json_request.py; v2beta3: beta.py). api.py checks the
names (names.py) and the grants (iam.py). tasks.py checks the task (task.py), stores it (store.py) and schedules it in
its queue (queues.py, queue_config.py, schedule.py). When it is due, dispatch.py asks tasks.py for the attempt
(attempt.py), sends it (exchange.py) and reports the status, which ends the task or schedules its retry.
Everything but api.py, rest.py, dispatch.py and exchange.py is clocked from outside and opens no socket.
"""
