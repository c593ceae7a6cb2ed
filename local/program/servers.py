"""What Google's servers and Docker compute when they create a resource.

Used by the mocks that evaluate the program, and by the tests' provider under the real engine.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def compute_outputs(token: str, name: str, inputs: Mapping[str, Any], service_url: str) -> tuple[str, dict[str, str]]:
    """The id of a resource of type `token`, and the outputs that are not among its inputs."""
    match token:
        case "gcp:cloudtasks/queue:Queue":
            path = f"projects/{inputs['project']}/locations/{inputs['location']}/queues/{inputs['name']}"
            return path, {"state": inputs.get("desiredState", "RUNNING")}
        case "gcp:cloudrunv2/service:Service":
            return f"{name}_id", {"uri": service_url}
        case "gcp:serviceaccount/account:Account":
            email = f"{inputs['accountId']}@{inputs['project']}.iam.gserviceaccount.com"
            path = f"projects/{inputs['project']}/serviceAccounts/{email}"
            return path, {"email": email, "member": f"serviceAccount:{email}", "name": path}
        case "gcp:secretmanager/secret:Secret":
            return f"projects/{inputs['project']}/secrets/{inputs['secretId']}", {}
        case "gcp:secretmanager/secretVersion:SecretVersion":
            return f"{inputs['secret']}/versions/1", {"version": "1"}
        case "docker:index/image:Image":
            repository = inputs["imageName"].rpartition(":")[0]
            digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
            return digest, {"repoDigest": f"{repository}@sha256:{digest}"}
    return f"{name}_id", {}


def service_state(inputs: Mapping[str, Any], trouble: str = "") -> dict[str, Any]:
    """What `getService` answers about a Cloud Run service that has these inputs."""
    condition = {"state": "CONDITION_FAILED" if trouble else "CONDITION_SUCCEEDED", "message": trouble}
    return {**inputs, "terminalConditions": [condition]}
