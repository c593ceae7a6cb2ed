"""The front door and the instances behind it: real processes that run a small service of the test's own."""

import asyncio
import json
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from local.cloud_run.front_door import FrontDoor, Service
from local.cloud_run.instances import Instances
from local.cloud_run.runtime import Processes
from local.identity import Identity, new_key

INVOKER = "cloud-tasks-invoker@shop.iam.gserviceaccount.com"
AUDIENCE = "https://handler.invalid/shop/dev"
KEY = new_key()
SERVICE = textwrap.dedent(
    """
    import http.server, json, os, pathlib, time

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            if self.path == "/die":
                os._exit(3)
            while self.path == "/wait" and not pathlib.Path(body).exists():
                time.sleep(0.01)
            answer = {"pid": os.getpid(), "path": self.path, "body": body, "headers": dict(self.headers)}
            content = json.dumps(answer).encode()
            self.send_response(207)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Own", "kept")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
    """
)


class Door:
    """A front door that listens, and a client that has the invoker's token."""

    def __init__(self, url: str, session: aiohttp.ClientSession, identity: Identity, instances: Instances) -> None:
        self.url = url
        self.instances = instances
        self._session = session
        self.identity = identity

    async def post(self, path: str, body: str = "", token: str | None = None) -> tuple[int, dict[str, object]]:
        return await self.send(
            path, {"Authorization": f"Bearer {token or self.identity.token(INVOKER, self.url)}"}, body
        )

    async def send(self, path: str, headers: dict[str, str], body: str = "") -> tuple[int, dict[str, object]]:
        async with self._session.post(URL(self.url + path, encoded=True), data=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else {}


@pytest.fixture
def clock() -> list[float]:
    return [1_800_000_000.0]


@asynccontextmanager
async def opened(
    folder: Path,
    clock: list[float],
    *,
    script: str = SERVICE,
    max_instances: int = 1,
    concurrency: int = 1,
    seconds: float = 60,
    invokers: tuple[str, ...] = (f"serviceAccount:{INVOKER}",),
) -> AsyncIterator[Door]:
    (folder / "service.py").write_text(script)
    instances = Instances(
        Processes(folder, sys.executable, "service"), {}, max_instances=max_instances, concurrency=concurrency
    )
    identity = Identity("http://issuer.example", "shop", [INVOKER], KEY, lambda: clock[0])
    service = Service(
        "task-handler", seconds, max_instances, concurrency, {}, frozenset(invokers), frozenset([AUDIENCE])
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        door = FrontDoor(service, url, identity, instances)
        runner = web.AppRunner(door.application(), auto_decompress=False)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        try:
            async with aiohttp.ClientSession() as session:
                yield Door(url, session, identity, instances)
        finally:
            await instances.stop()
            await door.close()
            await runner.cleanup()


async def test_a_request_passes_whole_and_without_the_tokens_signature(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock) as door:
        status, answer = await door.post("/process-order?a=%2F", "a body")
    assert status == 207
    assert (answer["path"], answer["body"]) == ("/process-order?a=%2F", "a body")
    headers = answer["headers"]
    assert isinstance(headers, dict)
    assert headers["Authorization"].endswith(".SIGNATURE_REMOVED_BY_GOOGLE")
    assert headers["X-Forwarded-Proto"] == "https"
    assert headers["traceparent"].split("-")[1] == headers["X-Cloud-Trace-Context"].split("/")[0]


async def test_the_audience_is_the_url_with_any_path_or_a_custom_one(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock) as door:
        for audience, status in (
            (AUDIENCE, 207),
            (door.url, 207),
            (f"{door.url}/", 207),
            (f"{door.url}/process-order", 207),
            (f"{AUDIENCE}/", 401),
            (f"{AUDIENCE}x", 401),
            (f"{door.url}0", 401),
            (f"{door.url}?a=1", 401),
            (f"{door.url}/?a=1", 401),
            (f"{door.url}/#a", 401),
            ("https://other.example", 401),
        ):
            assert (await door.post("/", token=door.identity.token(INVOKER, audience)))[0] == status, audience


async def test_the_first_token_header_counts_and_the_other_passes_untouched(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock) as door:
        good, bad = f"Bearer {door.identity.token(INVOKER, door.url)}", "Bearer of.an.application"
        for serverless, own, status in ((good, bad, 207), (good, None, 207), (bad, good, 401), ("Basic x", good, 403)):
            headers = {"x-serverless-authorization": serverless, **({"Authorization": own} if own else {})}
            code, answer = await door.send("/", headers)
            assert code == status, (serverless, own)
            if status == 207:
                seen = {key.lower(): value for key, value in answer["headers"].items()}  # type: ignore[attr-defined]
                assert seen["x-serverless-authorization"] == good.rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
                assert seen.get("authorization") == own


async def test_a_token_that_has_expired_or_is_none_is_unauthorized(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock) as door:
        token = door.identity.token(INVOKER, door.url)
        clock[0] += 3599
        assert (await door.post("/", token=token))[0] == 207
        clock[0] += 1
        for invalid in (token, "nonsense", "a.b.c"):
            assert (await door.post("/", token=invalid))[0] == 401


async def test_a_service_open_to_all_users_asks_for_no_token(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock, invokers=("allUsers",)) as door:
        assert (await door.post("/", token="nonsense"))[0] == 207


async def test_instances_are_added_up_to_the_maximum_then_429(tmp_path: Path, clock: list[float]) -> None:
    gate = tmp_path / "gate"
    async with opened(tmp_path, clock, max_instances=2, concurrency=2) as door:
        requests = [asyncio.create_task(door.post("/wait", str(gate))) for _ in range(5)]
        refused, waiting = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        assert [request.result()[0] for request in refused] == [429]
        gate.touch()
        answers = await asyncio.gather(*waiting)
        assert [status for status, _ in answers] == [207] * 4
        assert len({answer["pid"] for _, answer in answers}) == 2
        assert (await door.post("/"))[0] == 207


async def test_an_instance_that_dies_over_a_request_costs_503_and_is_replaced(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, clock) as door:
        assert (await door.post("/die"))[0] == 503
        while "ended with exit code 3" not in caplog.text:  # noqa: ASYNC110 - until its end was noticed
            await asyncio.sleep(0.01)
        assert (await door.post("/"))[0] == 207
    assert "ended with exit code 3" in caplog.text


async def test_an_instance_that_ends_before_it_listens_costs_503_and_is_quoted(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, clock, script="raise SystemExit('no database')") as door:
        assert (await door.post("/"))[0] == 503
    assert "ended with exit code 1; its last output: no database" in caplog.text


async def test_a_request_past_the_timeout_is_answered_504(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock, seconds=2) as door:
        assert (await door.post("/"))[0] == 207
        assert (await door.post("/wait", str(tmp_path / "gate")))[0] == 504
        (tmp_path / "gate").touch()


async def test_an_ending_cloud_starts_no_further_instance(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock) as door:
        waiting = asyncio.create_task(door.post("/wait", str(tmp_path / "gate")))
        await asyncio.sleep(0)
        await asyncio.wait_for(door.instances.stop(), 15)
        assert (await waiting)[0] == 503
        assert (await door.post("/"))[0] == 503


async def test_an_instance_that_hangs_at_its_start_does_not_hold_up_the_end(tmp_path: Path, clock: list[float]) -> None:
    async with opened(tmp_path, clock, script="open('begun', 'w').close(); import time; time.sleep(1000)") as door:
        waiting = asyncio.create_task(door.post("/"))
        while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.01)
        await asyncio.wait_for(door.instances.stop(), 15)
        waiting.cancel()
