"""How an order ends when it is not done now: for actions and effects to raise, for the HTTP edge to answer."""


class PermanentError(Exception):
    """No retry can cure this. Its text goes to the caller and into the log, so it holds nothing private."""


class TransientError(Exception):
    """A later attempt may succeed. Any other exception counts as one too; this one is understood, and logs no stack."""


class AlreadyProcessedError(Exception):
    """The effect happened in an earlier run: nothing is left to do."""


class BlockedError(Exception):
    """No task can be created now: the queue, the permission, the quota or the service is missing."""
