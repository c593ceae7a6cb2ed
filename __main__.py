"""The program: settings -> components -> exports."""

from typing import TypedDict

import pulumi

import settings
from components.apis import Apis
from components.handler_image import HandlerImage
from components.handler_service import HandlerService
from components.task_invoker import TaskInvoker
from components.task_queue import TaskQueue


class Place(TypedDict):
    project: str
    location: str


s = settings.load()
place: Place = {"project": s.project, "location": s.region}
apis = Apis("apis", s.project, ["run", "cloudtasks", "artifactregistry", "iam"])

image = HandlerImage(
    "handler-image",
    {
        "api": apis["artifactregistry"],
        **place,
        **s.image,
        "image_name": s.service["service_name"],
        "context": "handler",
    },
)
service = HandlerService(
    "handler",
    {
        "run_api": apis["run"],
        "iam_api": apis["iam"],
        **place,
        **s.service,
        "image": image.digest,
        "max_attempts": s.queue["max_attempts"],
    },
)
invoker = TaskInvoker(
    "invoker",
    {"iam_api": apis["iam"], **place, **s.invoker, "service_name": service.service_name, "producers": s.producers},
)
queue = TaskQueue("queue", {"api": apis["cloudtasks"], **place, **s.queue, "producers": s.producers})

pulumi.export("service_url", service.url)
pulumi.export("invoker_email", invoker.email)
pulumi.export("queue", queue.path)
pulumi.export("image", image.digest)
