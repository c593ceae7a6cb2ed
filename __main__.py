"""The program: settings -> components -> exports."""

import pulumi

import settings
from components.apis import Apis, Place
from components.handler_image import HandlerImage
from components.handler_service import HandlerService
from components.monitoring import Monitoring
from components.task_invoker import TaskInvoker
from components.task_queue import TaskQueue

s = settings.load()
apis = Apis(
    "apis", s.project, ["run", "cloudtasks", "artifactregistry", "iam", "secretmanager", "monitoring", "logging"]
)
place: Place = {"apis": apis, "project": s.project, "location": s.region}

image = HandlerImage(
    "handler-image", {**place, **s.image, "image_name": s.service["service_name"], "context": "handler"}
)
service = HandlerService(
    "handler",
    {
        **place,
        **s.service,
        "image": image.digest,
        "max_attempts": s.queue["max_attempts"],
        "dead_letter_queue": s.dead_letter_queue,
        "simulate_effects": s.effects["simulate_effects"],
        "secrets": s.secrets,
    },
)
invoker = TaskInvoker("invoker", {**place, **s.invoker, "service_name": service.service_name, "producers": s.producers})
queue = TaskQueue(
    "queue",
    {
        **place,
        **s.queue,
        "producers": s.producers,
        "dead_letter_queue": s.dead_letter_queue,
        "dead_letter_concurrency": settings.DEAD_LETTER_CONCURRENCY,
        "service_url": service.url,
        "invoker_email": invoker.email,
        "handler_member": service.account_member,
        "deletion_protection": s.service["deletion_protection"],
    },
)
monitoring = Monitoring("monitoring", {**place, **s.monitoring, **s.watched})

pulumi.export("service_url", service.url)
pulumi.export("invoker_email", invoker.producers_email)
pulumi.export("queue", queue.path)
pulumi.export("dead_letter_queue", queue.dead_letter_path)
pulumi.export("image", image.digest)
pulumi.export("dashboard_url", monitoring.dashboard_url)
