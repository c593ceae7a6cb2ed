import pytest
from pulumi_gcp import projects

from components.task_queue import TaskQueue
from tests.components.conftest import Computed, Declare

PRODUCERS = ("serviceAccount:web@shop-project.iam.gserviceaccount.com", "group:shop-developers@example.com")
PATH = "projects/shop-project/locations/europe-west1/queues/orders"


def queue(
    producers: tuple[str, ...] = PRODUCERS, min_backoff_seconds: float = 2.5, max_backoff_seconds: float = 90
) -> TaskQueue:
    return TaskQueue(
        "queue",
        {
            "api": projects.Service("api", service="cloudtasks.googleapis.com"),
            "project": "shop-project",
            "location": "europe-west1",
            "queue_name": "orders",
            "max_dispatches_per_second": 0.5,
            "max_concurrent_dispatches": 17,
            "max_attempts": 9,
            "min_backoff_seconds": min_backoff_seconds,
            "max_backoff_seconds": max_backoff_seconds,
            "max_doublings": 3,
            "producers": producers,
        },
    )


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_it_declares_one_queue_and_a_membership_a_producer(declare: Declare, producers: tuple[str, ...]) -> None:
    declared = declare(lambda: queue(producers))
    component = declared["TaskQueue queue"]
    assert component.type == "cloud-run-tasks:index:TaskQueue"
    assert [child.type for child in declared.values() if child.parent == component.urn] == [
        "gcp:cloudtasks/queue:Queue",
        *["gcp:cloudtasks/queueIamMember:QueueIamMember"] * len(producers),
    ]
    assert len(declared) == 3 + len(producers)


def test_the_queue_waits_for_its_api_and_writes_every_figure(declare: Declare) -> None:
    declared = declare(queue)
    assert declared["Queue queue"].depends_on == {declared["Service api"].urn}
    assert declared["Queue queue"].inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "orders",
        "rateLimits": {"maxDispatchesPerSecond": 0.5, "maxConcurrentDispatches": 17.0},
        "retryConfig": {
            "maxAttempts": 9.0,
            "minBackoff": "2.5s",
            "maxBackoff": "90s",
            "maxDoublings": 3.0,
            "maxRetryDuration": "0s",
        },
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "0.001s"), (0.1, "0.1s"), (1.0, "1s"), (10, "10s"), (100_000, "100000s"), (1e16, "10000000000000000s")],
)
def test_durations_are_written_as_the_service_writes_them_back(declare: Declare, seconds: float, text: str) -> None:
    declared = declare(lambda: queue(min_backoff_seconds=seconds, max_backoff_seconds=seconds))
    retries = declared["Queue queue"].inputs["retryConfig"]
    assert (retries["minBackoff"], retries["maxBackoff"]) == (text, text)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_each_producer_may_add_to_this_one_queue(declare: Declare, producer: str) -> None:
    declared = declare(queue)
    grant = declared[f"QueueIamMember queue-enqueuer-{producer}"]
    assert grant.depends_on == {declared["Queue queue"].urn}
    assert grant.inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "orders",
        "role": "roles/cloudtasks.enqueuer",
        "member": producer,
    }


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_the_path_is_usable_once_the_producers_may_add_to_the_queue(
    declare: Declare, computed: Computed, producers: tuple[str, ...]
) -> None:
    declared = declare(lambda: projects.Service("reader", service=queue(producers).path))
    assert declared["Service reader"].inputs["service"] == computed(PATH)
    assert declared["Service reader"].depends_on == {
        declared["Queue queue"].urn,
        *(declared[f"QueueIamMember queue-enqueuer-{producer}"].urn for producer in producers),
    }
