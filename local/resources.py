"""What the prod stack consists of, as docs/resources.md shows it: `python -m local.resources` prints that page."""

import re
from collections.abc import Iterator

from local.program import PROJECT, Evaluation, evaluate, stack_configuration
from local.sinks.effects import PLACEHOLDERS

WEB = "serviceAccount:web@project-id.iam.gserviceaccount.com"
PAGE = """\
# Resources

What `pulumi up` makes of the prod stack with one producer, by the component that owns it.
Printed by `.venv/bin/python -m local.resources`; a test holds it true.

{tree}
"""


def page() -> str:
    config = {f"{PROJECT}:producers": f'["{WEB}"]', "gcp:project": "project-id"}
    secrets = {f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()}
    evaluation = evaluate(stack="prod", config={**stack_configuration("prod"), **config}, secrets=secrets)
    return PAGE.format(tree="\n".join(_tree(evaluation)))


def _tree(evaluation: Evaluation) -> Iterator[str]:
    resources = evaluation.resources
    for component in resources.values():
        if component.parent not in resources:
            kind = component.type.rpartition(":")[2]
            module = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
            yield f"- [{kind}](../components/{module}.py) `{component.name}`"
            yield from sorted(
                f"  - {_short(each.type)} `{each.name}`" for each in resources.values() if each.parent == component.urn
            )


def _short(token: str) -> str:
    """gcp.cloudtasks.Queue for `gcp:cloudtasks/queue:Queue`"""
    package, module, kind = token.split(":")
    return f"{package}.{module.partition('/')[0]}.{kind}".replace(".index.", ".")


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - this is its output
