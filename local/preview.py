"""`python -m local preview`: prints what a stack declares as a tree."""

import json
from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from local.program import Evaluation, Resource


def preview(stack: str, evaluation: Evaluation) -> Iterator[Tree]:
    """Returns the tree of resources by component, and the tree of outputs."""
    tree = Tree(Text(f"Resources of the stack {stack}"))
    branches: dict[str, Tree] = {}
    for urn, resource in evaluation.resources.items():
        branches[urn] = branches.get(resource.parent, tree).add(_label(resource))
    yield tree
    outputs = Tree(Text("Outputs"))
    for name, value in evaluation.exports.items():
        missing = f"known after the deployment of {', '.join(evaluation.awaited[name])}"
        shown = missing if value is None else value if isinstance(value, str) else json.dumps(value)
        outputs.add(Text(f"{name}: {shown}"))
    yield outputs


def _label(resource: Resource) -> Text:
    """`gcp.cloudtasks.Queue queue`, and the name in the cloud where it differs"""
    package, module, kind = resource.type.split(":")
    type_ = f"{package}.{module.partition('/')[0]}.{kind}".replace(".index.", ".")
    name = resource.inputs.get("name", "")
    return Text.assemble((type_, "bold"), f" {resource.name}", f" ({name})" if isinstance(name, str) and name else "")
