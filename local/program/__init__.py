"""What the program declares: evaluated under Pulumi's mocks, for the local cloud and for the tests."""

from local.program.evaluation import (
    PROJECT,
    ROOT,
    SERVICE_URL,
    Evaluation,
    ProgramError,
    Resource,
    evaluate,
    run_file,
    stack_configuration,
)

__all__ = [
    "PROJECT",
    "ROOT",
    "SERVICE_URL",
    "Evaluation",
    "ProgramError",
    "Resource",
    "evaluate",
    "run_file",
    "stack_configuration",
]
