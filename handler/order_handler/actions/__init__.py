"""The actions, one a module. Removing a module removes its action; adding one adds it."""

import importlib
import pkgutil

from order_handler.action import AnyAction

ACTIONS: dict[str, AnyAction] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").ACTION
    for module in pkgutil.iter_modules(__path__)
}
"""By name, in alphabetical order."""
