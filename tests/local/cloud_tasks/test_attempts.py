"""Whatever a target answers, each task's attempts are those that its statuses and its queue's schedule demand."""

import socketserver
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
from google.cloud import tasks_v2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.local.cloud_tasks.serving import LOCATION, Serving

Step = tuple[int, bytes]
"""The status that an answer stands for, and its bytes: 0 for none that is HTTP, 504 for none in time."""

REST_OF_ANSWERS = (
    b"\r\nContent-Length: 0\r\n\r\n",
    b"\r\nContent-Length: 50\r\n\r\nshorter",
    b"\r\nContent-Encoding: unknown\r\n\r\nx",
    b"\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
    b"\r\n" + b"X-Many: x\r\n" * 5000 + b"\r\n",
    b"\r\nContent-Length: many\r\n\r\n",
    b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nzz\r\n",
    b"\r\nnot a header\r\n\xff\x00: \x01\r\nSet-Cookie: \xff\r\n\r\n",
    b"\r\n\r\n",
    b"",
)
BEFORE_ANSWERS = (b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
STATUSES = (200, 204, 299, 300, 302, 400, 404, 409, 429, 499, 500, 503, 599)
ANSWERED = st.builds(
    lambda status, before, version, rest: (status, before + b"HTTP/1.%d %d X%s" % (version, status, rest)),
    st.sampled_from(STATUSES),
    st.sampled_from(BEFORE_ANSWERS),
    st.sampled_from((0, 1)),
    st.sampled_from(REST_OF_ANSWERS),
)
NOT_HTTP = (b"", b"SSH-2.0\r\n", b"HTTP", b"HTTP/1.1 \r\n\r\n", b"\x16\x03\x01" * 50, b"x" * 2_000_000)
UNANSWERED = st.sampled_from([(504, b"late"), *((0, answer) for answer in NOT_HTTP)])
STEPS = st.lists(st.one_of(ANSWERED, ANSWERED, ANSWERED, UNANSWERED), min_size=1, max_size=5)


class Target(socketserver.ThreadingTCPServer):
    """Answers each request for a task with its next step, and notes the headers that tell of earlier attempts."""

    daemon_threads = allow_reuse_address = True
    request_queue_size = 100

    def __init__(self) -> None:
        self.steps: dict[str, list[Step]] = {}
        self.seen: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(socketserver.StreamRequestHandler):
    server: Target

    def handle(self) -> None:
        lines = iter(lambda: self.rfile.readline().strip().decode(), "")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        task = headers["X-CloudTasks-TaskName"]
        number = len(self.server.seen[task])
        self.server.seen[task].append(headers)
        _, answer = self.server.steps[task][number]
        if answer == b"late":
            self.server.over.wait(10)
        else:
            self.wfile.write(answer)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as target:
        threading.Thread(target=target.serve_forever, args=(0.02,), daemon=True).start()
        yield target
        target.over.set()
        target.shutdown()


def expected(steps: list[Step], most: int, wait: Callable[[int], float]) -> list[tuple[float, int, int, str]]:
    """Time, earlier attempts, earlier answers below 500, and previous status of each attempt."""
    attempts, now, answers, previous = [], 0.0, 0, ""
    for number, (status, _) in enumerate(steps, 1):
        attempts.append((now, number - 1, answers, previous))
        if 200 <= status < 300 or number == most:
            break
        answers += 0 < status < 500
        previous = str(status) if status else ""
        now += wait(number)
    return attempts


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tasks=st.lists(STEPS, min_size=1, max_size=6), most=st.integers(1, 5), doublings=st.integers(1, 3))
def test_each_tasks_attempts_are_what_the_statuses_and_the_schedule_demand(
    target: Target, tasks: list[list[Step]], most: int, doublings: int
) -> None:
    target.steps, target.seen = {}, defaultdict(list)
    queue = f"{LOCATION}/queues/q"
    with Serving() as service:
        service.patience = 0.02
        retries = {"minBackoff": "2s", "maxBackoff": "11s", "maxAttempts": most, "maxDoublings": doublings}
        service.declare(queue, retryConfig=retries)
        start = service.now
        at: dict[str, list[float]] = defaultdict(list)
        for number, steps in enumerate(tasks):
            padded = [*steps, *[(200, b"HTTP/1.1 200 OK\r\n\r\n")] * 5]
            target.steps[f"t{number}"] = padded
            url = f"http://127.0.0.1:{target.server_address[1]}/"
            task = {
                "name": f"{queue}/tasks/t{number}",
                "http_request": {"url": url},
                "dispatch_deadline": {"seconds": 15},
            }
            request = tasks_v2.CreateTaskRequest.pb()(parent=queue, task=task)
            service.do(lambda cloud_tasks, request=request: cloud_tasks.create_task(request))  # type: ignore[misc]
        while service.do(lambda cloud_tasks: cloud_tasks.next_dispatch(queue)) is not None:
            for attempt in service.deliver(queue):
                at[attempt.task].append(service.now - start)

    def wait(retry: int) -> float:
        seconds = 2.0
        for earlier in range(1, retry):
            seconds += seconds if earlier <= doublings else 2.0 * 2**doublings
        return min(11.0, seconds)

    for name, steps in target.steps.items():
        seen = [
            (
                round(moment, 3),
                int(headers["X-CloudTasks-TaskRetryCount"]),
                int(headers["X-CloudTasks-TaskExecutionCount"]),
                headers.get("X-CloudTasks-TaskPreviousResponse", ""),
            )
            for moment, headers in zip(at[name], target.seen[name], strict=True)
        ]
        assert seen == expected(steps, most, wait), (name, steps)
