import pulumi
import pytest
from pulumi_gcp import projects

from components.task_queue import TaskQueue, warn_of_a_move
from local.program import evaluate
from tests.components.conftest import Computed, Declare, place

PRODUCERS = ("serviceAccount:web@shop-project.iam.gserviceaccount.com", "group:shop-developers@example.com")
PATH = "projects/shop-project/locations/europe-west1/queues/orders"
DEAD_LETTERS = "projects/shop-project/locations/europe-west1/queues/lost-orders"
URL = "https://x.run.app"
INVOKER = "order-invoker@shop-project.iam.gserviceaccount.com"
HANDLER = "serviceAccount:order-handler@shop-project.iam.gserviceaccount.com"
ROLES = ("enqueuer", "taskDeleter", "viewer")


def computed_by(name: str, value: str) -> pulumi.Output[str]:
    """What a server computes for the resource `Service <name>`, which stands for any other."""
    return projects.Service(name, service="x").id.apply(lambda _: value)


def queue(
    producers: tuple[str, ...] = PRODUCERS,
    min_backoff_seconds: float = 2.5,
    max_backoff_seconds: float = 90,
    retry_until_handled: bool = False,
    service_url: str = URL,
    deletion_protection: bool = False,
) -> TaskQueue:
    return TaskQueue(
        "queue",
        {
            **place("cloudtasks"),
            "queue_name": "orders",
            "max_dispatches_per_second": 0.5,
            "max_concurrent_dispatches": 17,
            "max_attempts": 9,
            "retry_until_handled": retry_until_handled,
            "min_backoff_seconds": min_backoff_seconds,
            "max_backoff_seconds": max_backoff_seconds,
            "max_doublings": 3,
            "attempt_log_ratio": 0.25,
            "producers": producers,
            "dead_letter_queue": DEAD_LETTERS,
            "dead_letter_concurrency": 2,
            "service_url": computed_by("handler", service_url),
            "invoker_email": computed_by("invoker", INVOKER),
            "handler_member": computed_by("handler-account", HANDLER),
            "deletion_protection": deletion_protection,
        },
    )


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_it_declares_two_queues_and_a_membership_for_each_role_of_the_handler_and_each_producer(
    declare: Declare, producers: tuple[str, ...]
) -> None:
    declared = declare(lambda: queue(producers))
    component = declared["TaskQueue queue"]
    assert component.type == "cloud-run-tasks:index:TaskQueue"
    assert {key for key, child in declared.items() if child.parent == component.urn} == {
        "Queue queue",
        "Queue queue-dead-letters",
        *(f"QueueIamMember queue-dead-letters-{role}" for role in ROLES),
        *(f"QueueIamMember queue-enqueuer-{producer}" for producer in producers),
    }
    assert len(declared) == 11 + len(producers)


@pytest.mark.parametrize(("retry_until_handled", "attempts"), [(False, 9.0), (True, -1.0)])
def test_the_queue_waits_for_its_api_and_writes_every_figure(
    declare: Declare, retry_until_handled: bool, attempts: float
) -> None:
    declared = declare(lambda: queue(retry_until_handled=retry_until_handled))
    assert declared["Queue queue"].depends_on == {declared["Service apis-cloudtasks"].urn}
    assert declared["Queue queue"].inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "orders",
        "rateLimits": {"maxDispatchesPerSecond": 0.5, "maxConcurrentDispatches": 17.0},
        "retryConfig": {
            "maxAttempts": attempts,
            "minBackoff": "2.500s",
            "maxBackoff": "90s",
            "maxDoublings": 3.0,
            "maxRetryDuration": "0s",
        },
        "stackdriverLoggingConfig": {"samplingRatio": 0.25},
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "0.001s"), (0.1, "0.100s"), (1.0, "1s"), (10, "10s"), (100_000, "100000s"), (1e16, "10000000000000000s")],
)
def test_durations_are_written_as_the_service_writes_them_back(declare: Declare, seconds: float, text: str) -> None:
    declared = declare(lambda: queue(min_backoff_seconds=seconds, max_backoff_seconds=seconds))
    retries = declared["Queue queue"].inputs["retryConfig"]
    assert (retries["minBackoff"], retries["maxBackoff"]) == (text, text)


HTTPS = {"scheme": "HTTPS", "host": "x.run.app"}
LOCAL = {"scheme": "HTTP", "host": "127.0.0.1", "port": "8080"}


@pytest.mark.parametrize("retry_until_handled", [False, True])
@pytest.mark.parametrize(("service_url", "address"), [(URL, HTTPS), ("http://127.0.0.1:8080", LOCAL)])
def test_the_dead_letter_queue_keeps_what_it_is_given_and_sends_it_nowhere_but_to_the_handler(
    preview: bool,
    declare: Declare,
    computed: Computed,
    service_url: str,
    address: dict[str, str],
    retry_until_handled: bool,
) -> None:
    declared = declare(lambda: queue(service_url=service_url, retry_until_handled=retry_until_handled))
    override = {**address, "pathOverride": {"path": "/process-order"}, "uriOverrideEnforceMode": "ALWAYS"}
    assert declared["Queue queue-dead-letters"].inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "lost-orders",
        "desiredState": "PAUSED",
        "rateLimits": {"maxDispatchesPerSecond": 5.0, "maxConcurrentDispatches": 2.0},
        "retryConfig": {
            "maxAttempts": -1.0,
            "minBackoff": "3600s",
            "maxBackoff": "86400s",
            "maxDoublings": 5.0,
            "maxRetryDuration": "0s",
        },
        "stackdriverLoggingConfig": {"samplingRatio": 0.25},
        "httpTarget": {
            "httpMethod": "POST",
            "uriOverride": computed("") if preview else override,
            "oidcToken": {"serviceAccountEmail": computed(INVOKER), "audience": computed(service_url)},
        },
    }


def test_the_dead_letter_queue_waits_for_its_api_the_service_and_the_invoker(declare: Declare) -> None:
    declared = declare(queue)
    assert declared["Queue queue-dead-letters"].depends_on == {
        declared["Service apis-cloudtasks"].urn,
        declared["Service handler"].urn,
        declared["Service invoker"].urn,
    }


@pytest.mark.parametrize("role", ROLES)
def test_the_handler_may_store_look_up_and_take_back_dead_letters(
    declare: Declare, computed: Computed, role: str
) -> None:
    declared = declare(queue)
    grant = declared[f"QueueIamMember queue-dead-letters-{role}"]
    assert grant.depends_on == {declared["Queue queue-dead-letters"].urn, declared["Service handler-account"].urn}
    assert grant.inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "lost-orders",
        "role": f"roles/cloudtasks.{role}",
        "member": computed(HANDLER),
    }


@pytest.mark.parametrize("producer", PRODUCERS)
def test_each_producer_may_add_to_the_first_queue_alone_once_the_second_can_take_what_fails(
    declare: Declare, producer: str
) -> None:
    declared = declare(queue)
    grant = declared[f"QueueIamMember queue-enqueuer-{producer}"]
    assert grant.depends_on == {
        declared["Queue queue"].urn,
        *(declared[f"QueueIamMember queue-dead-letters-{role}"].urn for role in ROLES),
    }
    assert grant.inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "orders",
        "role": "roles/cloudtasks.enqueuer",
        "member": producer,
    }


def test_only_the_producers_are_granted_anything_on_the_first_queue(declare: Declare) -> None:
    grants = [
        resource for resource in declare(queue).values() if "iam" in resource.type.lower() and "name" in resource.inputs
    ]
    assert {grant.inputs["member"] for grant in grants if grant.inputs["name"] == "orders"} == set(PRODUCERS)
    assert len(grants) == len(PRODUCERS) + len(ROLES)


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_the_path_is_usable_once_the_producers_and_the_handler_may_use_the_queues(
    declare: Declare, computed: Computed, producers: tuple[str, ...]
) -> None:
    declared = declare(lambda: projects.Service("reader", service=queue(producers).path))
    assert declared["Service reader"].inputs["service"] == computed(PATH)
    assert declared["Service reader"].depends_on == {
        declared["Queue queue"].urn,
        *(declared[f"QueueIamMember queue-dead-letters-{role}"].urn for role in ROLES),
        *(declared[f"QueueIamMember queue-enqueuer-{producer}"].urn for producer in producers),
    }


def test_the_dead_letter_path_is_usable_once_the_handler_may_use_that_queue(
    declare: Declare, computed: Computed
) -> None:
    declared = declare(lambda: projects.Service("reader", service=queue().dead_letter_path))
    assert declared["Service reader"].inputs["service"] == computed(DEAD_LETTERS)
    assert declared["Service reader"].depends_on == {
        declared["Queue queue-dead-letters"].urn,
        *(declared[f"QueueIamMember queue-dead-letters-{role}"].urn for role in ROLES),
    }


@pytest.mark.parametrize("protected", [False, True])
def test_only_the_queues_are_protected_so_that_a_producer_can_be_taken_out(declare: Declare, protected: bool) -> None:
    declared = declare(lambda: queue(deletion_protection=protected))
    assert {key for key, resource in declared.items() if resource.options.protect} == (
        {"Queue queue", "Queue queue-dead-letters"} if protected else set()
    )


def test_the_engine_is_told_the_path_and_to_warn_of_another_one_and_destroys_without_the_program(
    declare: Declare,
) -> None:
    component = declare(queue)["TaskQueue queue"]
    assert component.inputs == {"path": PATH}
    hooks = component.options.hooks
    assert list(hooks.before_update) == ["queue-moved"]
    assert [kind.name for kind, _ in hooks.ListFields()] == ["before_update"]


MOVED = PATH.replace("europe-west1", "us-central1")


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [({"path": PATH}, {"path": MOVED}, True), ({"path": PATH}, {"path": PATH}, False), ({}, {"path": PATH}, False)],
)
def test_a_warning_precedes_the_loss_of_a_queue(
    caplog: pytest.LogCaptureFixture, before: dict[str, str], after: dict[str, str], warned: bool
) -> None:
    hook = pulumi.ResourceHookArgs("urn", "", "queue", "cloud-run-tasks:index:TaskQueue", after, before)
    evaluate(lambda: warn_of_a_move(hook), config={})
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        warnings
        == [
            f"{PATH} gives way to {MOVED}: the queue, its dead-letter queue and every task in them are deleted, and "
            "neither name can be used again for 3 to 7 days; let both run empty first"
        ]
        * warned
    )
