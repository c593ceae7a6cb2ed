"""Runs the program under Pulumi's mocks and reads what it declares, for the local cloud and the tests."""

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
