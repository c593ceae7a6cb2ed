"""Cloud Scheduler: jobs run when their schedule says, with their account's token, and a failure is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from pulumi_gcp import cloudscheduler

from local.cloud_scheduler import Job, Scheduler
from local.faults import Faults
from local.identity import Identity, new_key
from local.program import PROJECT, ROOT, ProgramError, evaluate, run_file
from local.program.declared import declared

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
EMAIL = "invoker@shop.iam.gserviceaccount.com"


def job(
    url: str = "http://127.0.0.1:1", schedule: str = "* * * * *", zone: str = "UTC", *, paused: bool = False
) -> Job:
    return Job("relay", schedule, zone, url, "POST", {"X-Own": "1"}, b"{}", 5.0, EMAIL, "the-audience", paused)


class Clock:
    """Time that passes only while a job waits."""

    def __init__(self, end: float) -> None:
        self.now = NOON
        self.end = end
        self.over = asyncio.Event()
        self.set_back = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds - self.set_back
        self.set_back = 0
        if self.now > self.end:
            self.over.set()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def target(answer: int = 200) -> AsyncIterator[tuple[str, list[web.Request], list[str]]]:
    """A server that keeps what it is asked; its URL, the requests, their bodies."""
    requests: list[web.Request] = []
    bodies: list[str] = []

    async def take(request: web.Request) -> web.Response:
        requests.append(request)
        bodies.append(await request.text())
        return web.Response(status=answer, text="said")

    application = web.Application()
    application.router.add_post("/relay", take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/relay", requests, bodies
    await runner.cleanup()


async def run(clock: Clock, jobs: list[Job], folder: Path, faults: Faults | None = None) -> Identity:
    identity = Identity("http://issuer", "shop", [EMAIL], new_key(), lambda: clock.now)
    none = Faults(None, folder / "faults")
    scheduler = Scheduler(jobs, identity, lambda: clock.now, faults or none, clock.sleep)
    async with asyncio.timeout(30), scheduler.running():
        await clock.over.wait()
    return identity


@pytest.mark.parametrize(
    ("schedule", "zone", "expected"),
    [
        ("* * * * *", "UTC", "2026-11-25T12:01:00+00:00"),
        ("*/15 * * * *", "UTC", "2026-11-25T12:15:00+00:00"),
        ("0 9 * * 1", "America/New_York", "2026-11-30T14:00:00+00:00"),
        ("30 3 29 2 *", "UTC", "2028-02-29T03:30:00+00:00"),
    ],
)
def test_a_job_runs_when_its_schedule_says(schedule: str, zone: str, expected: str) -> None:
    assert datetime.fromtimestamp(job(schedule=schedule, zone=zone).next_run(NOON), UTC).isoformat() == expected


@pytest.mark.parametrize(
    ("schedule", "zone"), [("every 1 minutes", "UTC"), ("61 * * * *", "UTC"), ("* * * * *", "Mars/X")]
)
def test_a_schedule_that_is_none_is_an_error(schedule: str, zone: str) -> None:
    with pytest.raises(ValueError, match="never runs"):
        job(schedule=schedule, zone=zone).next_run(NOON)


async def test_a_run_carries_the_accounts_token(tmp_path: Path) -> None:
    clock = Clock(NOON + 179)
    async with target() as (url, requests, bodies):
        identity = await run(clock, [job(url), job(url, paused=True)], tmp_path)
    assert [request.method for request in requests] == ["POST", "POST"]
    assert bodies == ["{}", "{}"]
    headers = requests[0].headers
    token = headers["Authorization"].removeprefix("Bearer ")
    assert identity.email(token, "the-audience") == EMAIL
    assert (headers["X-Own"], headers["X-CloudScheduler-JobName"]) == ("1", "relay")


async def test_a_clock_that_is_set_back_does_not_stop_a_job(tmp_path: Path) -> None:
    clock = Clock(NOON + 179)
    clock.set_back = 7200
    async with target() as (url, requests, _):
        clock.end -= 7200
        await run(clock, [job(url)], tmp_path)
    assert len(requests) == 2


async def test_a_run_that_fails_is_told_and_the_next_one_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with target(503) as (url, requests, _):
        await run(Clock(NOON + 179), [job(url)], tmp_path)
    assert len(requests) == 2
    assert caplog.text.count("The job relay failed") == 2
    assert "answered 503: said" in caplog.text
    await run(Clock(NOON + 61), [job()], tmp_path)
    assert "no answer from http://127.0.0.1:1" in caplog.text


async def test_the_drill_can_leave_out_repeat_and_lose_a_run(tmp_path: Path) -> None:
    faults = Faults(1, tmp_path / "faults", share=1)
    async with target() as (url, requests, _):
        await run(Clock(NOON + 60 * 40 - 1), [job(url)], tmp_path, faults)
    kinds = (tmp_path / "faults").read_text()
    assert len(requests) >= 39 - kinds.count("not called") - kinds.count("answer lost") + kinds.count("called twice")
    assert min(kinds.count(kind) for kind in ("not called", "called twice", "answer lost")) > 0


@pytest.mark.parametrize(
    ("email", "schedule", "reason"),
    [
        (EMAIL, "* * * * *", "which the program does not declare"),
        ("cloud-tasks-invoker@the-shop.iam.gserviceaccount.com", "every 1 minutes", "never runs"),
    ],
)
def test_a_job_that_could_never_run_is_refused_with_its_name(email: str, schedule: str, reason: str) -> None:
    def program() -> None:
        run_file(ROOT / "__main__.py")
        target = cloudscheduler.JobHttpTargetArgsDict(
            uri="https://handler.example/relay", oidc_token={"service_account_email": email}
        )
        cloudscheduler.Job("job", name="sweep", schedule=schedule, http_target=target)

    with pytest.raises(ProgramError, match=f"the job sweep .*{reason}"):
        declared(evaluate(program, config={"gcp:project": "the-shop", f"{PROJECT}:simulateEffects": "true"}))
