"""The accepted and refused texts of settings.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("settings.yaml").read_text())
HIDDEN = "hunter2"
"""Part of each refused secret, so that a leak can be found."""
VARIABLES = {
    "databaseUrl": "DATABASE_URL",
    "smtpUrl": "SMTP_URL",
    "warehouseUrl": "WAREHOUSE_URL",
    "warehouseSecret": "WAREHOUSE_SECRET",
    "simulateEffects": "SIMULATE_EFFECTS",
    "maxAttempts": "MAX_ATTEMPTS",
    "databasePool": "DATABASE_POOL",
    "handlerTimeoutSeconds": "HANDLER_TIMEOUT_SECONDS",
}
"""The handler's environment variable of each setting that it receives unchanged."""
SECRETS = {
    "databaseUrl": f"postgresql://shop:{HIDDEN}@db.shop.example/orders?sslmode=require",
    "smtpUrl": f"smtp://shop:{HIDDEN}@mail.shop.example:587?from=orders@shop.example",
    "warehouseUrl": f"https://warehouse.example/{HIDDEN}/orders",
    "warehouseSecret": f"{HIDDEN}-0123456789",
}
INCOMPLETE = [
    ({"smtpUrl"}, {"databaseUrl"}),
    ({"warehouseUrl", "warehouseSecret"}, {"databaseUrl"}),
    ({"databaseUrl", "warehouseUrl"}, {"warehouseSecret"}),
    ({"warehouseUrl"}, {"databaseUrl", "warehouseSecret"}),
]
"""Secrets that are set where effects are simulated, and those that are missing beside them."""
COMPLETE = [
    set[str](),
    {"databaseUrl"},
    {"warehouseSecret"},
    {"databaseUrl", "smtpUrl"},
    {"databaseUrl", "warehouseUrl", "warehouseSecret"},
    set(SECRETS),
]


def cases(kind: str, *keys: str) -> list[Any]:
    """Key and text of each example, of these keys or of all."""
    return [
        pytest.param(key, text, id=f"{key}-{number}")
        for key in keys or EXAMPLES
        for number, text in enumerate(EXAMPLES[key][kind])
    ]
