import pytest
from google.protobuf import json_format
from order_handler.environment import Environment
from pulumi.runtime import rpc
from pulumi.runtime.mocks import MockMonitor

from local.program import evaluate
from tests.accepted import HIDDEN, SECRETS, VARIABLES
from tests.declared import SECRET_TEXTS, STACKS, Declared, configuration, declare

HANDLER = "serviceAccount:task-handler-sa-prod@shop-project.iam.gserviceaccount.com"
LABELS = {key: VARIABLES[key].lower().replace("_", "-") for key in SECRETS}


@pytest.mark.parametrize("stack", STACKS)
def test_the_service_is_private_and_billed_per_request(stack: str) -> None:
    service, container = declare(stack)["Service handler"], declare(stack).container
    assert service["invokerIamDisabled"] is False
    assert service["ingress"] == "INGRESS_TRAFFIC_ALL"
    assert declare(stack, ingress="internal")["Service handler"]["ingress"] == "INGRESS_TRAFFIC_INTERNAL_ONLY"
    assert "defaultUriDisabled" not in service
    assert container["resources"]["cpuIdle"] is True
    assert container["startupProbe"]["periodSeconds"] == 1  # the default of 10 s would lengthen a cold start


def test_the_figures_of_the_settings_reach_the_service() -> None:
    declared = declare(
        handlerTimeoutSeconds="123",
        memory="640Mi",
        minInstances="2",
        maxInstances="7",
        containerConcurrency="13",
        maxAttempts="9",
        databasePool="5",
        handlerAccount="order-account",
    )
    service = declared["Service handler"]
    template = service["template"]
    assert template["timeout"] == "123s"
    assert declared.container["resources"]["limits"] == {"cpu": "1", "memory": "640Mi"}
    assert service["scaling"] == {"minInstanceCount": 2, "maxInstanceCount": 7}
    assert template["scaling"] == {"minInstanceCount": 0, "maxInstanceCount": 7}
    assert template["maxInstanceRequestConcurrency"] == 13
    assert template["serviceAccount"] == "order-account@shop-project.iam.gserviceaccount.com"
    plain = declared.environment
    assert (plain["MAX_ATTEMPTS"], plain["HANDLER_TIMEOUT_SECONDS"]) == ("9", "123")
    assert plain["DATABASE_POOL"] == "5"
    assert plain["DEAD_LETTER_QUEUE"] == declared.exports["dead_letter_queue"]
    assert plain["GOOGLE_CLOUD_PROJECT"] == "shop-project"
    assert plain["SIMULATE_EFFECTS"] == "false"
    assert declare("dev").environment["SIMULATE_EFFECTS"] == "true"


@pytest.mark.parametrize(
    ("stack", "project", "settings"),
    [
        ("prod", "shop-project", {}),
        ("dev", "shop-project", {"handlerTimeoutSeconds": "60", "databasePool": "1", "simulateEffects": "true"}),
        ("dev", "example.com:shop-project", {"queueName": "q" * 87, "region": "northamerica-northeast2"}),
        ("prod", "example.com:shop-project", {"databasePool": "100", "databaseMaxConnections": "2000"}),
    ],
)
def test_the_handler_can_read_the_environment_that_it_gets(stack: str, project: str, settings: dict[str, str]) -> None:
    evaluation = evaluate(config={**configuration(stack, **settings), "gcp:project": project}, secrets=SECRET_TEXTS)
    variables = Declared(evaluation.resources, evaluation.exports).environment
    secrets = {VARIABLES[key]: text for key, text in SECRETS.items()}
    environment = Environment.read(variables | secrets)
    assert environment.dead_letter_queue == evaluation.exports["dead_letter_queue"]
    assert environment.database_pool == int(settings.get("databasePool", 4))
    assert environment.database_url
    assert set(environment.values) == set(secrets) - {"DATABASE_URL"}


def test_a_private_network_is_reached_directly_and_for_private_addresses_alone() -> None:
    template = declare(vpcNetwork="shop", vpcSubnetwork="run")["Service handler"]["template"]
    assert template["vpcAccess"] == {
        "egress": "PRIVATE_RANGES_ONLY",
        "networkInterfaces": [{"network": "shop", "subnetwork": "run"}],
    }
    assert "vpcAccess" not in declare()["Service handler"]["template"]


def test_the_handler_has_the_socket_of_its_cloud_sql_instance_and_the_right_to_that_one() -> None:
    declared = declare(cloudSqlInstance="example.com:data:us-central1:orders")
    [volume] = declared["Service handler"]["template"]["volumes"]
    assert volume["cloudSqlInstance"] == {"instances": ["example.com:data:us-central1:orders"]}
    assert declared.container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/cloudsql"}]
    grant = declared["IAMMember handler-cloud-sql"]
    assert (grant["project"], grant["role"], grant["member"]) == ("example.com:data", "roles/cloudsql.client", HANDLER)
    assert '"projects/example.com:data/instances/orders"' in grant["condition"]["expression"]
    assert {"IAMMember handler-cloud-sql", "Service apis-run"} <= declared.after("Service handler")
    assert declared.after("IAMMember handler-cloud-sql") >= {"Service apis-sqladmin"}
    assert not declare().of("IAMMember")
    assert "volumeMounts" not in declare().container


@pytest.mark.parametrize("preview", [False, True])
def test_the_service_waits_for_its_account_and_the_right_to_read_its_secrets(preview: bool) -> None:
    after = declare(preview=preview).after("Service handler")
    assert "Account handler-account" in after
    for label in LABELS.values():
        assert {f"SecretVersion handler-{label}", f"SecretIamMember handler-{label}"} <= after


@pytest.mark.parametrize("key", SECRETS)
def test_each_secret_reaches_the_variable_of_its_own_name_and_its_reader_alone(key: str) -> None:
    declared, label = declare(), LABELS[key]
    secret = f"task-handler-prod-{label}-us-central1"
    reference = declared.environment[VARIABLES[key]]["secretKeyRef"]
    assert reference == {"secret": secret, "version": "1"}  # a number, so that a new value makes a new revision
    assert declared[f"Secret handler-{label}"]["secretId"] == secret
    [replica] = declared[f"Secret handler-{label}"]["replication"]["userManaged"]["replicas"]
    assert replica == {"location": "us-central1"}  # organisations refuse other places
    version = declared[f"SecretVersion handler-{label}"]
    assert version["secret"] == f"projects/shop-project/secrets/{secret}"
    assert version["secretData"] == SECRETS[key]
    assert version["deletionPolicy"] == "ABANDON"  # older revisions can still start
    readers = [(g["role"], g["member"]) for g in declared.of("SecretIamMember").values() if g["secretId"] == secret]
    assert readers == [("roles/secretmanager.secretAccessor", HANDLER)]


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_a_secret_is_encrypted_in_its_version_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, stack: str, preview: bool
) -> None:
    """In what the engine receives: registrations, outputs of components, exports."""
    outputs: list[object] = []
    register = MockMonitor.RegisterResourceOutputs

    def spy(monitor: MockMonitor, request: object) -> object:
        outputs.append(request)
        return register(monitor, request)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(MockMonitor, "RegisterResourceOutputs", spy)
    found = []
    declared = evaluate(stack=stack, config=configuration(stack), secrets=SECRET_TEXTS, preview=preview)
    for name, resource in declared.resources.items():
        request = type(resource.options)()
        request.CopyFrom(resource.options)
        if ":SecretVersion" in name:
            value = json_format.MessageToDict(request.object)["secretData"]
            assert rpc.is_rpc_secret(value)
            found.append(rpc.unwrap_rpc_secret(value))
            del request.object.fields["secretData"]
        assert HIDDEN not in str(request), name
    assert len(outputs) > 5
    assert HIDDEN not in str(outputs) + str(declared.exports)
    assert sorted(found) == sorted(SECRETS.values())
