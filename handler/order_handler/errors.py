"""The ways in which an order is not done now. Actions and effects raise them; the HTTP edge answers them."""


class PermanentError(Exception):
    """No retry can succeed. The caller and the log get its text, so it must contain nothing private."""


class TransientError(Exception):
    """A later attempt may succeed. Any other exception is treated the same, but logs its stack."""


class AlreadyProcessedError(Exception):
    """The effect happened in an earlier run, so there is nothing left to do."""


class CancelledEffectError(AlreadyProcessedError):
    """The web app cancelled the effect before any run had claimed it."""


class BlockedError(Exception):
    """No task can be created now: the queue, the permission, the quota or the service is missing."""
